"""Command: the typed gRPC API in front of Triton.

python -m serving.gateway --triton 127.0.0.1:8001
python -m serving.gateway --triton triton:8001 --host 0.0.0.0 --metrics-host 0.0.0.0
python -m serving.gateway --triton triton-a:8001,triton-b:8001
python -m serving.gateway --triton dns:///triton:8001
python -m serving.gateway --port 0 --metrics-port 0 --max-in-flight 16
python -m serving.gateway --tokens tokens.txt --tls-cert server.pem --tls-key server.key

It listens on loopback by default. On SIGTERM or Ctrl-C it stops when the running requests are
answered, after --grace seconds at the latest.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import cpcsam
from cpcsam.commands import parser_of, run_command
from serving.gateway.config import GatewayConfig, add_gateway_options, config_from_args
from serving.gateway.logs import configure_logging
from serving.gateway.run import run_until_stopped

__all__ = ["main"]

PROG: Final = "python -m serving.gateway"


def _serve(args: argparse.Namespace) -> None:
    configure_logging()
    config = replace(config_from_args(args, args.triton), restarts=args.restarts)
    asyncio.run(run_until_stopped(config))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = parser_of(PROG, __doc__)
    text = "HOST:PORT[,HOST:PORT...], or dns:///NAME:PORT for all addresses of a name (%(default)s)"
    parser.add_argument("--triton", default=GatewayConfig.triton, metavar="ADDRESSES", help=text)
    parser.add_argument("--version", action="version", version=f"cpcsam {cpcsam.__version__}")
    text = "list of restarts for /metrics, as serving.serve keeps it (none)"
    parser.add_argument("--restarts", type=Path, metavar="FILE", help=text)
    add_gateway_options(parser)
    return run_command(parser, _serve, argv)


if __name__ == "__main__":
    sys.exit(main())
