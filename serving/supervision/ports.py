"""Reservation of TCP ports for servers that are about to listen on them, or to come back."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from cpcsam.errors import ServingError

__all__ = ["reserved_ports"]


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
        ServingError: somebody listens on one of the ports, or it is not of this machine.
    """
    with ExitStack() as held:
        yield {option: _bind(held, host, option, port) for option, port in requested.items()}


def _bind(held: ExitStack, host: str, option: str, port: int) -> int:
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        holder = held.enter_context(socket.socket(family, kind))
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(address)
    except (OSError, OverflowError) as error:
        raise ServingError.of(
            option, got=f"{port} ({error})", expected="a free port", fix="give another, or 0"
        ) from error
    return int(holder.getsockname()[1])
