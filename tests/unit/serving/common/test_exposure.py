"""Servers that others reach without a token."""

from __future__ import annotations

import pytest

from cpcsam.errors import ConfigError
from serving.common.exposure import address_of, is_loopback, require_protection


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1:9"),
        ("sam.example", "sam.example:9"),
        ("::1", "[::1]:9"),
        ("[::]", "[::]:9"),
    ],
)
def test_address_has_brackets_around_ipv6_alone(host: str, address: str) -> None:
    assert address_of(host, 9) == address


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_tokens(host: str) -> None:
    assert is_loopback(host)
    require_protection("--host", host, has_tokens=False, allow_anonymous=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "10.0.0.1", "sam.example", ""])
def test_other_addresses_need_tokens_or_the_switch(host: str) -> None:
    assert not is_loopback(host)
    require_protection("--host", host, has_tokens=True, allow_anonymous=False)
    require_protection("--host", host, has_tokens=False, allow_anonymous=True)
    with pytest.raises(ConfigError, match=r"--host: got .* without --tokens.*--allow-anonymous"):
        require_protection("--host", host, has_tokens=False, allow_anonymous=False)
