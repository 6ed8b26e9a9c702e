"""Self-signed certificate of this machine."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from cpcsam.errors import ConfigError
from serving.common.tls import TlsFiles

__all__ = ["self_signed"]


def self_signed(folder: Path, *addresses: str) -> TlsFiles:
    """Write server.pem and server.key, valid for two days.

    Args:
        folder: that gets them.
        addresses: IP addresses of the server in addition to localhost.

    Raises:
        ConfigError: openssl is not installed.
    """
    if shutil.which("openssl") is None:
        raise ConfigError.of(
            "openssl", got="no such program", expected="it", fix="apt-get install openssl"
        )
    files = TlsFiles(folder / "server.pem", folder / "server.key")
    names = ",".join(["DNS:localhost", *(f"IP:{address}" for address in addresses)])
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", f"subjectAltName={names}"),
            *("-out", str(files.certificate), "-keyout", str(files.key)),
        ],
        check=True,
        capture_output=True,
    )
    return files
