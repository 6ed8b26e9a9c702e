"""Configuration of the HTTP front and the command-line options that set it."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cpcsam.client._channel import DEFAULT_ADDRESS, Endpoint
from cpcsam.commands import count, port, positive
from serving.common.tls import TlsFiles, tls_files
from serving.http.label_studio_config import (
    LabelStudioConfig,
    add_label_studio_options,
    label_studio_config_from_args,
)

__all__ = ["HttpConfig", "add_http_options", "http_config_from_args"]

ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[^\s/@?#:\[\]*]+)(:\d+)?")
NAME: Final = re.compile(r"[^\s/@?#:\[\]*]+|[0-9a-f.]*(:[0-9a-f.]*){2,}")


@dataclass(frozen=True)
class HttpConfig:
    """Configuration of the HTTP front.

    Attributes:
        gateway: HOST:PORT of the gateway's gRPC.
        gateway_tls: whether the gateway speaks TLS.
        gateway_ca: PEM file of certificates that are trusted for it; None trusts the system's.
        gateway_name: name in its certificate; None is the host of `gateway`.
        host: address to listen on.
        port: port of the API; 0 takes a free one.
        tls: certificate and key; None serves plain text.
        metrics_host: address of the Prometheus endpoint.
        metrics_port: its port; 0 takes a free one.
        cors_origins: origins, such as `https://tool.example`, whose pages may call the API.
        allowed_hosts: names besides addresses of loopback by which a server on loopback is called;
            other names are refused, as a foreign page could give itself one (DNS rebinding). Where
            there are some, they count for other addresses, too.
        allow_anonymous: listen beyond loopback although the gateway requires no tokens.
        max_body_bytes: size of a request's body; an image in base64 takes 4/3 of its size.
        max_held_bytes: bytes of the bodies of all requests in flight.
        max_in_flight: requests in flight; further ones are refused.
        max_connections: open connections; further ones are closed.
        max_seconds: longest time for a request; a caller's own limit may be shorter.
        upload_s: seconds in which a body must come.
        unread_s: seconds for which a connection may take nothing of an answer, or send no request.
        grace_s: seconds for running requests to finish when the front stops.
        label_studio: the Label Studio whose images are read; None reads none.
    """

    gateway: str = DEFAULT_ADDRESS
    gateway_tls: bool = False
    gateway_ca: Path | None = None
    gateway_name: str | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    tls: TlsFiles | None = None
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 9091
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    allow_anonymous: bool = False
    max_body_bytes: int = 52 * 1024 * 1024
    max_held_bytes: int = 256 * 1024 * 1024
    max_in_flight: int = 128
    max_connections: int = 1024
    max_seconds: float = 60.0
    upload_s: float = 60.0
    unread_s: float = 30.0
    grace_s: float = 10.0
    label_studio: LabelStudioConfig | None = None

    @property
    def endpoint(self) -> Endpoint:
        """The gateway, without a token: each call has its caller's."""
        has_tls = self.gateway_tls or self.gateway_ca is not None
        name = self.gateway_name if has_tls else None
        return Endpoint(self.gateway, tls=has_tls, ca=self.gateway_ca, tls_name=name)


def add_http_options(parser: argparse.ArgumentParser, prefix: str = "") -> None:
    """Add the options of `HttpConfig`, all but those of the gateway's address.

    Args:
        parser: of the command.
        prefix: of the options that a gateway has as well, `http-` for `--http-port`.
    """
    config = HttpConfig()
    add = parser.add_argument_group("HTTP").add_argument
    name = f"--{prefix}"
    add(f"{name}host", default=config.host, help="address to listen on (%(default)s)")
    add(f"{name}port", type=port, default=config.port, help="port (%(default)s), 0: any")
    add(
        f"{name}metrics-host", default=config.metrics_host, help="address of /metrics (%(default)s)"
    )
    add(
        f"{name}metrics-port",
        type=port,
        default=config.metrics_port,
        help="port of /metrics (%(default)s), 0: any",
    )
    text = "origin whose pages may call the API, such as https://tool.example; repeatable (none)"
    add("--cors-origin", type=_origin, action="append", default=[], metavar="ORIGIN", help=text)
    text = "name in URLs that is admitted besides loopback's; repeatable (all beyond loopback)"
    add("--allowed-host", type=_name, action="append", default=[], metavar="NAME", help=text)
    for field, unit in (
        ("max_body_bytes", "bytes of a request's body"),
        ("max_held_bytes", "bytes of the bodies of all requests in flight"),
        ("max_connections", "open connections"),
    ):
        option = f"--{field.replace('_', '-')}"
        default = getattr(config, field)
        add(option, type=count, default=default, metavar="N", help=f"{unit} (%(default)s)")
    text = "requests in flight (%(default)s)"
    add(f"{name}max-in-flight", type=count, default=config.max_in_flight, metavar="N", help=text)
    text = "seconds in which a body must come (%(default)s)"
    add("--upload-seconds", type=positive, default=config.upload_s, metavar="S", help=text)
    text = "seconds for which a connection may send no request or take nothing (%(default)s)"
    add("--unread-seconds", type=positive, default=config.unread_s, metavar="S", help=text)
    add_label_studio_options(parser)


def _origin(text: str) -> str:
    """Argument type: an origin as browsers send it, in lower case and without a path; or `*`."""
    origin = text.lower().removesuffix("/")
    if origin != "*" and ORIGIN.fullmatch(origin) is None:
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected an origin such as https://tool.example, without a path"
        )
    return origin


def _name(text: str) -> str:
    """Argument type: a name as it stands in a URL, in lower case and without the port."""
    name = text.lower().strip("[]")
    if NAME.fullmatch(name) is None:
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected a name such as sam.example, without scheme and port"
        )
    return name


def http_config_from_args(args: argparse.Namespace, gateway: str, prefix: str = "") -> HttpConfig:
    """Build the configuration from parsed options, and check the files that it names.

    Args:
        args: as `add_http_options` defines them, with `gateway_tls`, `gateway_ca`, `gateway_name`,
            `tls_cert`, `tls_key`, `max_seconds`, `grace` and `allow_anonymous`.
        gateway: HOST:PORT of the gateway.
        prefix: of the arguments' names, `http_` for `http_port`.

    Raises:
        ConfigError: a certificate or its key, or Label Studio's address or token, cannot be used.
    """

    def own(name: str) -> object:
        return getattr(args, f"{prefix}{name}")

    tls = tls_files(args.tls_cert, args.tls_key)
    if tls is not None:
        tls.credentials()
    config = HttpConfig(
        gateway=gateway,
        gateway_tls=args.gateway_tls,
        gateway_ca=args.gateway_ca,
        gateway_name=args.gateway_name,
        host=str(own("host")),
        port=int(str(own("port"))),
        tls=tls,
        metrics_host=str(own("metrics_host")),
        metrics_port=int(str(own("metrics_port"))),
        cors_origins=tuple(args.cors_origin),
        allowed_hosts=tuple(args.allowed_host),
        allow_anonymous=args.allow_anonymous,
        max_body_bytes=args.max_body_bytes,
        max_held_bytes=max(args.max_held_bytes, args.max_body_bytes),
        max_in_flight=int(str(own("max_in_flight"))),
        max_connections=args.max_connections,
        max_seconds=args.max_seconds,
        upload_s=args.upload_seconds,
        unread_s=args.unread_seconds,
        grace_s=args.grace,
        label_studio=label_studio_config_from_args(args),
    )
    config.endpoint.credentials()
    return config
