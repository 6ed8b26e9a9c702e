"""Command: the real Triton server on this machine, without a container.

python -m serving.triton --repository build/repository
python -m serving.triton --repository build/repository --grpc-port 8001 --metrics-port 8002

It listens on 127.0.0.1 only, serves until Ctrl-C or SIGTERM, and leaves no process behind. When
Triton ends or one of its steps is dead, it is started again with the current version.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cpcsam.commands import parser_of, port, positive, run_command, until_interrupted
from serving.common.logs import add_log_options, configure_logging
from serving.triton.launch import START_TIMEOUT_S
from serving.triton.supervisor import supervised_triton

__all__ = ["main"]

PROG: Final = "python -m serving.triton"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; 0 after Ctrl-C or SIGTERM."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument(
        "--repository", type=Path, required=True, metavar="DIR", help="the model repository"
    )
    for name in ("grpc", "http", "metrics"):
        parser.add_argument(
            f"--{name}-port", type=port, default=0, metavar="PORT", help="default: a free one"
        )
    parser.add_argument("--log", type=Path, metavar="FILE", help="default: a temporary file")
    parser.add_argument(
        "--timeout", type=positive, default=START_TIMEOUT_S, metavar="S", help="to load the models"
    )
    text = "OTLP/HTTP to which it sends its spans of traced requests (none)"
    parser.add_argument("--traces", metavar="URL", help=text)
    add_log_options(parser)
    return run_command(parser, _serve, argv)


def _serve(args: argparse.Namespace) -> None:
    configure_logging(args.log_format)
    with (
        until_interrupted(),
        supervised_triton(
            args.repository,
            grpc_port=args.grpc_port,
            http_port=args.http_port,
            metrics_port=args.metrics_port,
            log=args.log,
            traces=args.traces,
            timeout_s=args.timeout,
        ) as triton,
    ):
        server = triton.server
        print(f"grpc {server.grpc_url}\nhttp {server.http_url}\nmetrics {server.metrics_url}")
        print(f"log {server.log}\nCtrl-C stops it.", flush=True)
        triton.run()


if __name__ == "__main__":
    sys.exit(main())
