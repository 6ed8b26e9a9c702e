"""Addresses to listen on: their form, and the rule on those that others reach."""

from __future__ import annotations

import ipaddress
from typing import Final

from cpcsam.errors import ConfigError

__all__ = ["address_of", "is_loopback", "require_protection"]

NAMES: Final = ("localhost", "ip6-localhost")


def address_of(host: str, port: int) -> str:
    """Return HOST:PORT, with an IPv6 address in brackets.

    Args:
        host: an IP address, IPv6 with or without brackets, or a name.
        port: of the server.
    """
    bare = host.strip("[]")
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address to listen on.

    Args:
        host: an IP address, IPv6 with or without brackets, or a name.
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host in NAMES


def require_protection(option: str, host: str, *, has_tokens: bool, allow_anonymous: bool) -> None:
    """Refuse a server without tokens at an address that others reach, unless that is intended.

    Args:
        option: that names the address.
        host: the address.
        has_tokens: whether callers need a token.
        allow_anonymous: whether the operator says that they need none.

    Raises:
        ConfigError: anyone who reaches the address would have full access.
    """
    if not (has_tokens or allow_anonymous or is_loopback(host)):
        raise ConfigError.of(
            option,
            got=f"{host} without --tokens, where anyone has full access",
            expected="tokens, or an address of loopback",
            fix="give --tokens FILE, or --allow-anonymous if the network itself keeps others out",
        )
