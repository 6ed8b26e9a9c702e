"""gRPC channels to a gateway: address, TLS and bearer token."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from cpcsam.client._retry import INITIAL_BACKOFF_S, MAX_BACKOFF_S
from cpcsam.errors import ConfigError

__all__ = ["DEFAULT_ADDRESS", "Endpoint"]

DEFAULT_ADDRESS: Final = "127.0.0.1:50051"
OPTIONS: Final = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # By default up to two minutes, in which all attempts fail although the gateway is back.
    ("grpc.initial_reconnect_backoff_ms", round(INITIAL_BACKOFF_S * 1e3)),
    ("grpc.max_reconnect_backoff_ms", round(MAX_BACKOFF_S * 1e3)),
)


@dataclass(frozen=True)
class Endpoint:
    """Address and credentials of a gateway.

    Attributes:
        address: HOST:PORT.
        token: sent with every call; it does not show in the object's `repr`.
        tls: whether the gateway speaks TLS.
        ca: PEM file of trusted certificates; None trusts those of the system. Implies tls.
        tls_name: in the gateway's certificate, implies TLS; None is the host of the address.

    Raises:
        ConfigError: the token has characters that HTTP cannot carry.
    """

    address: str = DEFAULT_ADDRESS
    token: str | None = field(default=None, repr=False)
    tls: bool = False
    ca: Path | None = None
    tls_name: str | None = None

    def __post_init__(self) -> None:
        """Validate the token."""
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise ConfigError.of(
                "token", got="other characters", expected="printable ASCII", fix="copy it again"
            )

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata of every call: the authorization header, if there is a token."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)

    @property
    def options(self) -> tuple[tuple[str, str | int], ...]:
        """Options of a channel to it."""
        if self.tls_name is None:
            return OPTIONS
        return (*OPTIONS, ("grpc.ssl_target_name_override", self.tls_name))

    def channel(self) -> grpc.Channel:
        """Open a blocking channel.

        Raises:
            ConfigError: the certificates cannot be read.
        """
        credentials = self.credentials()
        if credentials is None:
            return grpc.insecure_channel(self.address, options=self.options)
        return grpc.secure_channel(self.address, credentials, options=self.options)

    def async_channel(self) -> grpc.aio.Channel:
        """Open an asyncio channel in the running event loop.

        Raises:
            ConfigError: the certificates cannot be read.
        """
        credentials = self.credentials()
        if credentials is None:
            return grpc.aio.insecure_channel(self.address, options=self.options)
        return grpc.aio.secure_channel(self.address, credentials, options=self.options)

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Return TLS credentials; None for plain text.

        Raises:
            ConfigError: the certificates cannot be read.
        """
        if self.ca is None:
            named = self.tls_name is not None  # else the token would go in plain text
            return grpc.ssl_channel_credentials() if self.tls or named else None
        try:
            return grpc.ssl_channel_credentials(self.ca.read_bytes())
        except OSError as error:
            raise ConfigError.of(
                f"ca {self.ca}",
                got=error.strerror,
                expected="a file of certificates in PEM",
                fix="correct the path",
            ) from error
