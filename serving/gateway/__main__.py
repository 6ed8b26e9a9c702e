"""Command: the typed gRPC API in front of Triton.

python -m serving.gateway --triton 127.0.0.1:8001
python -m serving.gateway --triton triton:8001 --host 0.0.0.0 --tokens tokens.txt
python -m serving.gateway --triton triton-a:8001,triton-b:8001
python -m serving.gateway --triton dns:///triton:8001
python -m serving.gateway --port 0 --metrics-port 0 --max-in-flight 16
python -m serving.gateway --tokens tokens.txt --tls-cert server.pem --tls-key server.key
OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4317 python -m serving.gateway --log-format json

It listens on loopback by default; beyond it, only with --tokens or --allow-anonymous. On SIGTERM
or Ctrl-C it stops when the running requests are answered, after --grace seconds at the latest.
"""

from __future__ import annotations

from serving.supervision.allocator import restart_with_allocator

if __name__ == "__main__":  # before the imports below, which would be made twice
    restart_with_allocator("serving.gateway")

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import cpcsam
from cpcsam.commands import parser_of, run_command
from serving.common.logs import configure_logging
from serving.common.tracing import traced
from serving.gateway.config import GatewayConfig, add_gateway_options, config_from_args
from serving.gateway.run import run_until_stopped

__all__ = ["main"]

PROG: Final = "python -m serving.gateway"


def _serve(args: argparse.Namespace) -> None:
    configure_logging(args.log_format)
    config = replace(
        config_from_args(args, args.triton), restarts=args.restarts, heartbeat=args.heartbeat
    )
    asyncio.run(_run(config, args.tracing))


async def _run(config: GatewayConfig, tracing: bool | None) -> None:
    # Inside the event loop, which takes repeated signals while the last spans are sent.
    with traced(tracing, "cpcsam-gateway"):
        await run_until_stopped(config)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = parser_of(PROG, __doc__)
    text = "HOST:PORT[,HOST:PORT...], dns:///NAME:PORT or a file of addresses, file:///PATH"
    text += " (%(default)s)"
    parser.add_argument("--triton", default=GatewayConfig.triton, metavar="ADDRESSES", help=text)
    parser.add_argument("--version", action="version", version=f"cpcsam {cpcsam.__version__}")
    text = "list of restarts for /metrics, as serving.serve keeps it (none)"
    parser.add_argument("--restarts", type=Path, metavar="FILE", help=text)
    text = "file descriptor of a pipe that serving.serve reads: a byte twice a second (none)"
    parser.add_argument("--heartbeat", type=int, metavar="N", help=text)
    add_gateway_options(parser)
    return run_command(parser, _serve, argv)


if __name__ == "__main__":
    sys.exit(main())
