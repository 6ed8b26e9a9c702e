"""TLS certificate of a server."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from cpcsam.errors import ConfigError

__all__ = ["TlsFiles", "tls_files"]


@dataclass(frozen=True)
class TlsFiles:
    """Paths of a certificate and its private key, in PEM.

    Attributes:
        certificate: the server's certificate, followed by its chain.
        key: its private key.
    """

    certificate: Path
    key: Path

    def credentials(self) -> grpc.ServerCredentials:
        """Load the credentials of a gRPC server.

        Raises:
            ConfigError: a file cannot be read, or the two do not belong together.
        """
        try:
            # gRPC itself would only fail when the first caller comes.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key)
            pair = (self.key.read_bytes(), self.certificate.read_bytes())
        except OSError as error:  # base class of ssl.SSLError
            raise ConfigError.of(
                f"--tls-cert {self.certificate}, --tls-key {self.key}",
                got=error.strerror or "something else",
                expected="a certificate and its private key without a password, in PEM",
                fix="correct the paths",
            ) from error
        return grpc.ssl_server_credentials([pair])


def tls_files(certificate: Path | None, key: Path | None) -> TlsFiles | None:
    """Combine the two TLS options; None if neither is given.

    Raises:
        ConfigError: only one of them is given.
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
