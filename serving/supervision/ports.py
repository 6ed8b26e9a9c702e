"""Reservation of TCP ports for servers that are about to listen on them, or to come back."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import combinations
from typing import Any

from cpcsam.errors import ServingError

__all__ = ["require_distinct_ports", "reserved_ports"]


def require_distinct_ports(requested: Mapping[str, tuple[str, int]]) -> None:
    """Refuse two servers of one port at addresses that overlap; 0 is any port.

    `reserved_ports` would reserve it for both, and the second could not listen on it.

    Args:
        requested: host and port by the option that names the port.

    Raises:
        ServingError: names both options.
    """
    for (option, (host, port)), (other, (another, same)) in combinations(requested.items(), 2):
        if port == same != 0 and _overlap(host, another):
            raise ServingError.of(
                option,
                got=f"{port}, as {other}",
                expected="a port for each",
                fix="give another to one of them, or 0",
            )


@contextmanager
def reserved_ports(host: str, requested: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Reserve ports while the block runs, and replace 0 by free ones, all distinct.

    The kernel gives a reserved port to no connection, which would keep a server from coming back,
    and a server with SO_REUSEADDR, as all of ours are, may listen on it.

    Args:
        host: address or name of this machine.
        requested: port by the option that names it.

    Yields:
        The ports by option.

    Raises:
        ServingError: two of the ports are one, somebody listens on one of them, or the host is not
            of this machine.
    """
    require_distinct_ports({option: (host, port) for option, port in requested.items()})
    with ExitStack() as held:
        yield {option: _bind(held, host, option, port) for option, port in requested.items()}


def _overlap(*hosts: str) -> bool:
    with suppress(OSError):  # of a host that does not exist, which its reservation names
        families, addresses = zip(*(_listening(host) for host in hosts), strict=True)
        if "0.0.0.0" in addresses:
            return "::" in addresses or len({*families}) == 1
        return "::" in addresses or len({*addresses}) == 1
    return False


def _listening(host: str) -> tuple[int, str]:
    family, _, address = _resolved(host, 0)
    return family, str(address[0])


def _resolved(host: str, port: int) -> tuple[int, int, tuple[Any, ...]]:
    """Return family, kind and address to listen on."""
    family, kind, _, _, address = socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return family, kind, address


def _bind(held: ExitStack, host: str, option: str, port: int) -> int:
    try:
        family, kind, address = _resolved(host, port)
        holder = held.enter_context(socket.socket(family, kind))
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(address)
    except (OSError, OverflowError) as error:
        raise ServingError.of(
            option, got=f"{port} ({error})", expected="a free port", fix="give another, or 0"
        ) from error
    return int(holder.getsockname()[1])
