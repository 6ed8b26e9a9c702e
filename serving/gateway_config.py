"""How a gateway is run, and the options of the commands that run one."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field

from cpcsam.command import port, positive
from serving.limits import Limits

__all__ = ["GatewayConfig", "add_gateway_options", "config_of"]


@dataclass(frozen=True)
class GatewayConfig:
    """How a gateway is run.

    Attributes:
        triton: HOST:PORT of Triton's gRPC.
        host: address to listen on.
        port: port of the API; 0 takes a free one.
        metrics_host: address of the Prometheus endpoint.
        metrics_port: its port; 0 takes a free one.
        limits: what is accepted at most.
        max_seconds: longest time for a request; a caller's own deadline may be shorter.
        grace_s: how long requests in work may go on once the gateway is to stop.
    """

    triton: str = "127.0.0.1:8001"
    host: str = "127.0.0.1"
    port: int = 50051
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 9090
    limits: Limits = field(default_factory=Limits)
    max_seconds: float = 60.0
    grace_s: float = 10.0


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
    limits = parser.add_argument_group("limits").add_argument
    for name, unit in (
        ("max_image_bytes", "bytes of an encoded image"),
        ("max_pixels", "pixels of an image"),
        ("max_prompts", "prompts of a request"),
        ("max_in_flight", "requests in work at once"),
        ("cache_bytes", "bytes of embeddings kept for follow-up requests"),
    ):
        option = f"--{name.replace('_', '-')}"
        default = getattr(config.limits, name)
        limits(option, type=int, default=default, metavar="N", help=f"{unit} (%(default)s)")
    limits(
        "--max-seconds",
        type=positive,
        default=config.max_seconds,
        metavar="S",
        help="longest time for a request (%(default)s)",
    )
    limits(
        "--grace",
        type=positive,
        default=config.grace_s,
        metavar="S",
        help="seconds for the requests in work when stopping (%(default)s)",
    )


def config_of(args: argparse.Namespace, triton: str) -> GatewayConfig:
    """Configuration of parsed options.

    Raises:
        ConfigError: a limit is out of bounds.
    """
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
            cache_bytes=args.cache_bytes,
        ),
        max_seconds=args.max_seconds,
        grace_s=args.grace,
    )
