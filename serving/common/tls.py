"""TLS certificate of a server."""

from __future__ import annotations

import ssl
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import grpc

from cpcsam.errors import ConfigError

__all__ = ["TlsFiles", "leaf_of", "name_in", "tls_files", "trusting"]

CERTIFICATE_END: Final = "-----END CERTIFICATE-----\n"


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

    def server_name(self) -> str | None:
        """Return a name that the certificate is for; None if no client would trust it, by now.

        Raises:
            OSError: the files are no certificate and key, as `credentials` tells.
        """
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(self.certificate, self.key)
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        # Python tells the names of a certificate only where a server shows it.
        shown_to = trusting(leaf_of(self.certificate)).wrap_bio(to_client, to_server)
        showing = server.wrap_bio(to_server, to_client, server_side=True)
        try:
            for side in (shown_to, showing, shown_to):
                with suppress(ssl.SSLWantReadError):
                    side.do_handshake()
            return name_in(shown_to)
        except (ssl.SSLError, ValueError):
            return None


def leaf_of(certificate: Path) -> str:
    """Return the first certificate of a file in PEM, without its chain.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no text.
    """
    return "".join(certificate.read_text().partition(CERTIFICATE_END)[:2])


def trusting(leaf: str) -> ssl.SSLContext:
    """Make a client's context that trusts one certificate alone, under any name.

    Its chain would also make everything trusted that the chain has signed.

    Raises:
        ssl.SSLError: it is no certificate in PEM.
    """
    context = ssl.create_default_context(cadata=leaf)
    context.check_hostname = False
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols(["h2"])
    return context


def name_in(connection: ssl.SSLSocket | ssl.SSLObject) -> str | None:
    """Return a name or an address that the certificate of a server is for; None if it has none."""
    shown: Any = connection.getpeercert()
    alternatives = shown.get("subjectAltName", ())
    names = [name for kind, name in alternatives if kind == "DNS"]
    names += [str(ip_address(name)) for kind, name in alternatives if kind == "IP Address"]
    if not alternatives:
        names = [value for part in shown["subject"] for key, value in part if key == "commonName"]
    return str(names[0]).replace("*", "any", 1) if names else None


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
