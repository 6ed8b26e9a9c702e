"""Command: the HTTP front of a gateway: JSON API, page, and adapters of annotation tools.

python -m serving.http
python -m serving.http --gateway 127.0.0.1:50051 --port 8080
python -m serving.http --gateway gateway:50051 --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
python -m serving.http --gateway sam.example:50051 --gateway-tls
python -m serving.http --cors-origin https://tool.example
OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4317 python -m serving.http --log-format json

It listens on loopback by default. Beyond loopback it starts only before a gateway that requires
tokens, or with --allow-anonymous. On SIGTERM or Ctrl-C it stops when the running requests are
answered, after --grace seconds at the latest.
"""

from __future__ import annotations

from serving.supervision.allocator import restart_with_allocator

if __name__ == "__main__":  # before the imports below, which would be made twice
    restart_with_allocator("serving.http")

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cpcsam
from cpcsam.commands import parser_of, positive, run_command
from serving.common.logs import add_log_options, configure_logging, guard_grpc_logger
from serving.common.tracing import add_tracing_options, traced
from serving.http.config import HttpConfig, add_http_options, http_config_from_args
from serving.http.server import run_until_stopped
from serving.supervision.heartbeat import Heartbeat

__all__ = ["main"]

PROG: Final = "python -m serving.http"


def _serve(args: argparse.Namespace) -> None:
    configure_logging(args.log_format)
    guard_grpc_logger()
    config, heartbeat = http_config_from_args(args, args.gateway), Heartbeat(args.heartbeat)
    asyncio.run(_run(config, heartbeat, args.tracing))


async def _run(config: HttpConfig, heartbeat: Heartbeat, tracing: bool | None) -> None:
    # Inside the event loop, which takes repeated signals while the last spans are sent.
    with traced(tracing, "cpcsam-http"):
        await run_until_stopped(config, heartbeat)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    config = HttpConfig()
    parser = parser_of(PROG, __doc__)
    parser.add_argument("--version", action="version", version=f"cpcsam {cpcsam.__version__}")
    add = parser.add_argument_group("gateway").add_argument
    text = "address of the gateway (%(default)s)"
    add("--gateway", default=config.gateway, metavar="HOST:PORT", help=text)
    add("--gateway-tls", action="store_true", help="the gateway speaks TLS (plain text)")
    text = "certificates in PEM to trust, for --gateway-tls (those of the system)"
    add("--gateway-ca", type=Path, metavar="FILE", help=text)
    text = "name in the gateway's certificate, for --gateway-tls (the host of --gateway)"
    add("--gateway-name", metavar="NAME", help=text)
    text = "longest time for a request in seconds (%(default)s)"
    add("--max-seconds", type=positive, default=config.max_seconds, metavar="S", help=text)
    text = "seconds for running requests to finish when stopping (%(default)s)"
    add("--grace", type=positive, default=config.grace_s, metavar="S", help=text)
    text = "file descriptor of a pipe that serving.serve reads: a byte twice a second (none)"
    add("--heartbeat", type=int, metavar="N", help=text)
    add_http_options(parser)
    observed = parser.add_argument_group("logs and traces")
    add_log_options(observed)
    add_tracing_options(observed)
    security = parser.add_argument_group("security").add_argument
    security("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM (plain text)")
    security("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    text = "listen beyond loopback although the gateway requires no tokens"
    security("--allow-anonymous", action="store_true", help=text)
    return run_command(parser, _serve, argv)


if __name__ == "__main__":
    sys.exit(main())
