"""Command: the whole service on this machine, Triton and the gateway together.

python -m serving.serve --repository build/repository
python -m serving.serve --repository build/repository --port 0 --metrics-port 0
python -m serving.serve --repository build/repository --triton-metrics-port 8002

Everything listens on loopback by default. Ctrl-C or SIGTERM stops both and leaves no process
behind; the same happens when Triton ends.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cpcsam
from cpcsam.commands import parser_of, port, run_command, until_interrupted
from cpcsam.errors import ServingError
from serving.gateway.config import add_gateway_options, config_from_args
from serving.gateway.logs import configure_logging
from serving.gateway.run import run_until_stopped
from serving.triton.launch import TritonServer, launch_triton

__all__ = ["main"]

PROG: Final = "python -m serving.serve"
POLL_S: Final = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; 0 after Ctrl-C or SIGTERM."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("--version", action="version", version=f"cpcsam {cpcsam.__version__}")
    parser.add_argument(
        "--repository", type=Path, required=True, metavar="DIR", help="the model repository"
    )
    add_gateway_options(parser)
    triton = parser.add_argument_group("Triton, on loopback; 0: any port").add_argument
    for name, use in (("grpc", "gRPC"), ("http", "HTTP"), ("metrics", "/metrics")):
        triton(f"--triton-{name}-port", type=port, default=0, help=f"port of {use} (%(default)s)")
    triton("--triton-log", type=Path, metavar="FILE", help="its log (a temporary file)")
    return run_command(parser, _serve, argv)


def _serve(args: argparse.Namespace) -> None:
    configure_logging()
    # The gateway handles the signals itself; this is for the time until it runs.
    with until_interrupted():
        config_from_args(args, triton="")  # fails on wrong options before Triton starts
        with launch_triton(
            args.repository,
            grpc_port=args.triton_grpc_port,
            http_port=args.triton_http_port,
            metrics_port=args.triton_metrics_port,
            log=args.triton_log,
        ) as triton:
            print(f"triton   {triton.grpc_url}  (log {triton.log})")
            print(f"metrics  {triton.metrics_url}")
            config = config_from_args(args, triton=triton.grpc_url)
            asyncio.run(run_until_stopped(config, _fail_at_exit_of(triton)))


async def _fail_at_exit_of(triton: TritonServer) -> None:
    """Wait until Triton exits by itself.

    Raises:
        ServingError: it has.
    """
    while triton.process.poll() is None:
        await asyncio.sleep(POLL_S)
    raise ServingError.of(
        "Triton",
        got=f"its end, with exit status {triton.process.returncode}",
        expected="a running server",
        fix=f"see {triton.log}",
    )


if __name__ == "__main__":
    sys.exit(main())
