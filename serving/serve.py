"""Command: the whole service on this machine, Triton and the gateway together.

python -m serving.serve --repository build/repository
python -m serving.serve --repository build/repository --port 0 --metrics-port 0
python -m serving.serve --repository build/repository --triton-metrics-port 8002

Everything listens on loopback by default. Triton and the gateway are processes of their own: when
one ends, or a step of Triton does, it is started again on the same ports, with the repository's
current version. Ctrl-C or SIGTERM stops both and leaves no process behind.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import cpcsam
from cpcsam.commands import parser_of, port, run_command, until_interrupted
from serving.gateway.config import add_gateway_options, config_from_args
from serving.gateway.logs import configure_logging
from serving.supervision.gateway_process import supervised_gateway
from serving.supervision.ports import reserved_ports
from serving.supervision.restarts import RestartLog
from serving.triton.faults import Fault
from serving.triton.supervisor import supervised_triton

__all__ = ["main"]

PROG: Final = "python -m serving.serve"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; 0 after Ctrl-C or SIGTERM."""
    words = sys.argv[1:] if argv is None else list(argv)
    own = parser_of(PROG, __doc__)
    _add_options(own)
    parser = parser_of(PROG, __doc__)
    parser.add_argument("--version", action="version", version=f"cpcsam {cpcsam.__version__}")
    _add_options(parser)
    add_gateway_options(parser)

    def serve(args: argparse.Namespace) -> None:
        _, gateway_options = own.parse_known_args(words)
        _serve(args, gateway_options)

    return run_command(parser, serve, words)


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that are not the gateway's."""
    parser.add_argument(
        "--repository", type=Path, required=True, metavar="DIR", help="the model repository"
    )
    triton = parser.add_argument_group("Triton, on loopback; 0: any port").add_argument
    for name, use in (("grpc", "gRPC"), ("http", "HTTP"), ("metrics", "/metrics")):
        triton(f"--triton-{name}-port", type=port, default=0, help=f"port of {use} (%(default)s)")
    triton("--triton-log", type=Path, metavar="FILE", help="its log (a temporary file)")


def _serve(args: argparse.Namespace, gateway_options: Sequence[str]) -> None:
    configure_logging()
    restarts = RestartLog()

    def record(fault: Fault) -> None:
        restarts.add("triton", fault.cause)

    with (
        until_interrupted(),
        _checked_ports(args) as ports,
        supervised_triton(
            args.repository,
            grpc_port=args.triton_grpc_port,
            http_port=args.triton_http_port,
            metrics_port=args.triton_metrics_port,
            log=args.triton_log,
            record=record,
        ) as triton,
    ):
        server = triton.server
        print(f"triton   {server.grpc_url}  (log {server.log})")
        print(f"metrics  {server.metrics_url}", flush=True)
        # The last of several values of an option counts.
        options = [*gateway_options, "--triton", server.grpc_url, *ports]
        with supervised_gateway(options, restarts, args.grace):
            triton.run()


@contextmanager
def _checked_ports(args: argparse.Namespace) -> Iterator[list[str]]:
    """Check the gateway's options before Triton starts, and reserve its ports; yield those."""
    config_from_args(args, triton="")
    with (
        reserved_ports(args.host, {"--port": args.port}) as api,
        reserved_ports(args.metrics_host, {"--metrics-port": args.metrics_port}) as metrics,
    ):
        yield [f"{option}={number}" for option, number in {**api, **metrics}.items()]


if __name__ == "__main__":
    sys.exit(main())
