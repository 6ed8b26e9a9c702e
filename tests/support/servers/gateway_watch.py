"""Looking at a gateway from outside, and Tritons that it can do nothing with."""

from __future__ import annotations

import re
import socket
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from benchmarks.serving.certificate import self_signed
from cpcsam.errors import ConfigError
from serving.common.tls import TlsFiles
from serving.gateway.server import Gateway
from serving.supervision.ports import reserved_ports

RESERVED = ExitStack()


def free_port() -> int:
    """A port of loopback at which nobody listens, and only a server of the test itself may.

    The kernel gives it to nobody else until this process ends.
    """
    return RESERVED.enter_context(reserved_ports("127.0.0.1", {"port": 0}))["port"]


@contextmanager
def silent_triton() -> Iterator[str]:
    """The address of a Triton that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def metric(gateway: Gateway, line: str) -> float | None:
    with urllib.request.urlopen(gateway.metrics_url, timeout=60) as answer:
        found = re.search(rf"^{re.escape(line)} (\S+)$", answer.read().decode(), re.MULTILINE)
    return float(found[1]) if found else None


def wait_for(gateway: Gateway, line: str, value: float) -> None:
    deadline = time.monotonic() + 60
    while (found := metric(gateway, line)) != value:
        assert time.monotonic() < deadline, f"{line} stays at {found}, expected {value}"
        time.sleep(0.02)


def make_certificate(
    folder: Path, addresses: Sequence[str] = ("127.0.0.1", "127.0.0.2")
) -> TlsFiles:
    """Write server.pem and server.key for localhost; skip the test where openssl is missing."""
    try:
        return self_signed(folder, *addresses)
    except ConfigError as error:
        pytest.skip(str(error))
