"""A certificate for this machine, signed by itself, for tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.serving.certificate import self_signed
from cpcsam.errors import ConfigError
from serving.gateway.auth.tls import TlsFiles


def make_certificate(folder: Path) -> TlsFiles:
    """Write server.pem and server.key for loopback; skip the test where openssl is missing."""
    try:
        return self_signed(folder, "127.0.0.1", "127.0.0.2")
    except ConfigError as error:
        pytest.skip(str(error))
