"""Configuration of a gateway and the command-line options that set it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

from cpcsam.artifacts.manifest import read_manifest
from cpcsam.commands import port, positive
from serving.common.exposure import require_protection
from serving.common.logs import add_log_options
from serving.common.tls import TlsFiles, tls_files
from serving.common.tracing import add_tracing_options
from serving.gateway.auth.tokens import read_tokens
from serving.gateway.calls.guard import Patience
from serving.gateway.limits import Limits

__all__ = ["GatewayConfig", "add_gateway_options", "config_from_args"]


@dataclass(frozen=True)
class GatewayConfig:
    """Configuration of a gateway.

    Attributes:
        triton: HOST:PORT of Triton's gRPC, several separated by commas; or dns:///NAME:PORT or
            file:///PATH, whose addresses are looked up again and again.
        host: address to listen on.
        port: port of the API; 0 takes a free one.
        metrics_host: address of the Prometheus endpoint.
        metrics_port: its port; 0 takes a free one.
        limits: bounds of requests, concurrency and memory.
        max_seconds: longest time for a request; a caller's own deadline may be shorter.
        max_connection_age_s: seconds after which callers are asked to connect anew, which ends no
            call; None never asks.
        grace_s: seconds for running requests to finish when the gateway stops.
        restarts: list of what a supervisor restarted; None without one.
        heartbeat: file descriptor of a pipe to a supervisor, which expects a byte twice a second;
            None without one.
        tokens: file of the callers' tokens; None requires none.
        tls: certificate and key; None serves plain text.
        classes: folder that stores the tenants' classes; None forbids changes.
        vocabulary: artifact with the initial classes of every tenant; None is no class.
        patience: seconds that clients may keep a call waiting.
    """

    triton: str = "127.0.0.1:8001"
    host: str = "127.0.0.1"
    port: int = 50051
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 9090
    limits: Limits = field(default_factory=Limits)
    max_seconds: float = 60.0
    max_connection_age_s: float | None = None
    grace_s: float = 10.0
    restarts: Path | None = None
    heartbeat: int | None = None
    tokens: Path | None = None
    tls: TlsFiles | None = None
    classes: Path | None = None
    vocabulary: Path | None = None
    patience: Patience = field(default_factory=Patience)


def add_gateway_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `GatewayConfig`, all but `--triton`."""
    config = GatewayConfig()
    add = parser.add_argument_group("gateway").add_argument
    add("--host", default=config.host, help="address to listen on (%(default)s)")
    add("--port", type=port, default=config.port, help="port of the API (%(default)s), 0: any")
    add("--metrics-host", default=config.metrics_host, help="address of /metrics (%(default)s)")
    add(
        "--metrics-port",
        type=port,
        default=config.metrics_port,
        help="port of /metrics (%(default)s), 0: any",
    )
    observed = parser.add_argument_group("logs and traces")
    add_log_options(observed)
    add_tracing_options(observed)
    classes = parser.add_argument_group("classes").add_argument
    text = "folder that stores the tenants' classes (none: no changes)"
    classes("--classes", type=Path, metavar="DIR", help=text)
    text = "initial vocabulary of every tenant, as training.vocabulary builds it (no class)"
    classes("--vocabulary", type=Path, metavar="DIR", help=text)
    security = parser.add_argument_group("security").add_argument
    text = "file of the callers' tokens, as serving.tokens writes it (no token required)"
    security("--tokens", type=Path, metavar="FILE", help=text)
    text = "listen beyond loopback without tokens (refused)"
    security("--allow-anonymous", action="store_true", help=text)
    security("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM (plain text)")
    security("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    limits = parser.add_argument_group("limits").add_argument
    for name, unit in (
        ("max_image_bytes", "bytes of an encoded image"),
        ("max_pixels", "pixels of an image"),
        ("max_prompts", "prompts of a request"),
        ("max_in_flight", "requests in flight, including those that wait"),
        ("max_concurrent", "concurrent calls to Triton, fewer if it is slow"),
        ("max_tiles", "tiles of one image"),
        ("max_clicks", "point prompts of a request for everything"),
        ("stream_window", "requests of a stream read ahead of its responses"),
        ("cache_bytes", "bytes of the embedding cache"),
    ):
        option = f"--{name.replace('_', '-')}"
        default = getattr(config.limits, name)
        limits(option, type=int, default=default, metavar="N", help=f"{unit} (%(default)s)")
    limits(
        "--max-queue",
        type=positive,
        default=config.limits.max_queue_s,
        metavar="S",
        help="longest wait of a request for its first turn (%(default)s)",
    )
    limits(
        "--max-seconds",
        type=positive,
        default=config.max_seconds,
        metavar="S",
        help="longest time for a request (%(default)s)",
    )
    text = "seconds after which callers connect anew, and so find other gateways of a name (never)"
    limits("--max-connection-age", type=positive, metavar="S", help=text)
    limits(
        "--grace",
        type=positive,
        default=config.grace_s,
        metavar="S",
        help="seconds for running requests to finish when stopping (%(default)s)",
    )


def config_from_args(args: argparse.Namespace, triton: str) -> GatewayConfig:
    """Build the configuration from parsed options, and check the files it names.

    Args:
        args: as `add_gateway_options` defines them.
        triton: where Triton is, as in `GatewayConfig`.

    Raises:
        ConfigError: a limit is out of bounds, the tokens, the certificate or its key cannot be
            used, or others than this machine reach a gateway without tokens.
        ArtifactError: there is no such vocabulary.
    """
    # Files are read here only to fail early: commands start Triton before the gateway.
    tls = tls_files(args.tls_cert, args.tls_key)
    if tls is not None:
        tls.credentials()
    require_protection(
        "--host",
        args.host,
        has_tokens=args.tokens is not None,
        allow_anonymous=args.allow_anonymous,
    )
    if args.tokens is not None:
        read_tokens(args.tokens)
    if args.vocabulary is not None:
        read_manifest(args.vocabulary, "vocabulary")
    return GatewayConfig(
        triton=triton,
        host=args.host,
        port=args.port,
        metrics_host=args.metrics_host,
        metrics_port=args.metrics_port,
        limits=Limits(
            max_image_bytes=args.max_image_bytes,
            max_pixels=args.max_pixels,
            max_prompts=args.max_prompts,
            max_in_flight=args.max_in_flight,
            max_concurrent=args.max_concurrent,
            max_queue_s=args.max_queue,
            max_tiles=args.max_tiles,
            max_clicks=args.max_clicks,
            stream_window=args.stream_window,
            cache_bytes=args.cache_bytes,
        ),
        max_seconds=args.max_seconds,
        max_connection_age_s=args.max_connection_age,
        grace_s=args.grace,
        tokens=args.tokens,
        tls=tls,
        classes=args.classes,
        vocabulary=args.vocabulary,
    )
