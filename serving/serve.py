"""Command: the whole service on this machine, Triton and the gateway together.

python -m serving.serve --repository build/repository
python -m serving.serve --repository build/repository --port 0 --metrics-port 0
python -m serving.serve --repository build/repository --triton-metrics-port 8002

Everything listens on loopback unless told otherwise. Ctrl-C or SIGTERM stops both and leaves no
process behind; so does the end of Triton.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cpcsam
from cpcsam.commands import ArgumentParser, exit_code_of, port
from cpcsam.errors import ServingError
from serving.gateway.config import add_gateway_options, config_of
from serving.gateway.server import run_until_stopped
from serving.triton.launch import TritonServer, launch_triton

__all__ = ["main"]

PROG: Final = "python -m serving.serve"
POLL_S: Final = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when it was asked to stop, 2 after an error."""
    summary, _, rest = (__doc__ or "").removeprefix("Command: ").partition("\n\n")
    parser = ArgumentParser(prog=PROG, description=summary, epilog=rest)
    parser.add_argument("--version", action="version", version=f"cpcsam {cpcsam.__version__}")
    parser.add_argument(
        "--repository", type=Path, required=True, metavar="DIR", help="the model repository"
    )
    add_gateway_options(parser)
    triton = parser.add_argument_group("Triton, on loopback; 0: any port").add_argument
    for name, use in (("grpc", "gRPC"), ("http", "HTTP"), ("metrics", "/metrics")):
        triton(f"--triton-{name}-port", type=port, default=0, help=f"port of {use} (%(default)s)")
    triton("--triton-log", type=Path, metavar="FILE", help="its log (a temporary file)")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        signal.signal(signal.SIGTERM, _interrupt)
        return exit_code_of(lambda: _serve(args), PROG)
    except KeyboardInterrupt:  # before the gateway runs; afterwards it handles the signals
        return 0


def _serve(args: argparse.Namespace) -> None:
    # Refuses wrong limits before Triton takes its time to start.
    config_of(args, triton="")
    with launch_triton(
        args.repository,
        grpc_port=args.triton_grpc_port,
        http_port=args.triton_http_port,
        metrics_port=args.triton_metrics_port,
        log=args.triton_log,
    ) as triton:
        print(f"triton   {triton.grpc_url}  (log {triton.log})")
        print(f"metrics  {triton.metrics_url}")
        config = config_of(args, triton=triton.grpc_url)
        asyncio.run(run_until_stopped(config, _end_of(triton)))


async def _end_of(triton: TritonServer) -> None:
    """Wait until Triton ends by itself.

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


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
