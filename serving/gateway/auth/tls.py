"""The gateway's certificate."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from cpcsam.errors import ConfigError

__all__ = ["TlsFiles", "tls_files"]


@dataclass(frozen=True)
class TlsFiles:
    """A certificate and its key, in PEM.

    Attributes:
        certificate: the server's certificate, and those it is signed by.
        key: its private key.
    """

    certificate: Path
    key: Path

    def credentials(self) -> grpc.ServerCredentials:
        """What gRPC listens with.

        Raises:
            ConfigError: a file cannot be read, or the two do not belong together.
        """
        try:
            # gRPC itself would only fail when the first caller comes.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key)
            pair = (self.key.read_bytes(), self.certificate.read_bytes())
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError.of(
                f"--tls-cert {self.certificate}, --tls-key {self.key}",
                got=error.strerror or "something else",
                expected="a certificate and its private key without a password, in PEM",
                fix="correct the paths",
            ) from error
        return grpc.ssl_server_credentials([pair])


def tls_files(certificate: Path | None, key: Path | None) -> TlsFiles | None:
    """The files of two options that belong together.

    Raises:
        ConfigError: one is given without the other.
    """
    if certificate is not None and key is not None:
        return TlsFiles(certificate, key)
    if certificate is None and key is None:
        return None
    raise ConfigError.of(
        "TLS",
        got="--tls-key alone" if certificate is None else "--tls-cert alone",
        expected="--tls-cert and --tls-key, or neither",
        fix="give both",
    )
