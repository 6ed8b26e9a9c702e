"""A certificate for this machine, signed by itself, for tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from serving.tls import TlsFiles


def make_certificate(folder: Path) -> TlsFiles:
    """Write server.pem and server.key for localhost; skip the test where openssl is missing."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed; on Debian: apt-get install openssl")
    files = TlsFiles(folder / "server.pem", folder / "server.key")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:127.0.0.2"),
            *("-out", str(files.certificate), "-keyout", str(files.key)),
        ],
        check=True,
        capture_output=True,
    )
    return files
