"""Command: the whole service on this machine: Triton, the gateway and its HTTP front.

python -m serving.serve --repository build/repository
python -m serving.serve --repository build/repository --port 0 --metrics-port 0 --http-port 0
python -m serving.serve --repository build/repository --no-http
python -m serving.serve --repository build/repository --triton-metrics-port 8002
python -m serving.serve --repository build/repository --tracing --log-format json \
  --triton-traces http://localhost:4318/v1/traces

Everything listens on loopback by default. Triton, the gateway and the front are processes of their
own: when one ends, or a step of Triton does, it is started again on the same ports. When another
version of the repository becomes current, a second Triton is started with it and checked; then
requests go there, and the first one is stopped after those that it began with. Ctrl-C, SIGTERM or
the end of its terminal stops all and leaves no process behind.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import cpcsam
from cpcsam.commands import parser_of, port, run_command, until_interrupted
from serving.common.exposure import address_of, require_protection
from serving.common.logs import configure_logging
from serving.common.tls import tls_files
from serving.gateway.config import add_gateway_options, config_from_args
from serving.http.config import add_http_options, http_config_from_args
from serving.supervision.child_process import supervised
from serving.supervision.model_summary import summary_of
from serving.supervision.ports import require_distinct_ports, reserved_ports
from serving.supervision.restarts import RestartLog
from serving.supervision.traffic import Traffic
from serving.triton.faults import Fault
from serving.triton.launch import HOST
from serving.triton.supervisor import Following, supervised_triton
from serving.triton.switching import origins_of_classes

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
    text = "port of /metrics of every other Triton that a switch starts (%(default)s)"
    triton("--triton-second-metrics-port", type=port, default=0, metavar="PORT", help=text)
    triton("--triton-log", type=Path, metavar="FILE", help="its log (a temporary file)")
    text = "OTLP/HTTP to which it sends its spans of traced requests (none)"
    triton("--triton-traces", metavar="URL", help=text)
    add_http_options(parser, prefix="http-")
    text = "run no HTTP front"
    parser.add_argument("--no-http", action="store_true", help=text)
    text = "certificates by which the HTTP front trusts a gateway with --tls-cert (--tls-cert)"
    parser.add_argument("--gateway-ca", type=Path, metavar="FILE", help=text)


@dataclass(frozen=True)
class _Ports:
    """Reserved ports of Triton, options with those of the others, and the gateway's addresses."""

    triton: Mapping[str, int]
    gateway: Sequence[str]
    http: Sequence[str]
    address: str
    metrics: str


def _serve(args: argparse.Namespace, gateway_options: Sequence[str]) -> None:
    configure_logging(args.log_format)
    restarts = RestartLog()

    def record(fault: Fault) -> None:
        restarts.add("triton", fault.cause)

    with (
        until_interrupted(),
        _checked_ports(args) as ports,
        _traffic(ports, args.max_seconds) as traffic,
        supervised_triton(
            args.repository,
            grpc_port=ports.triton["grpc-port"],
            http_port=ports.triton["http-port"],
            metrics_port=ports.triton["metrics-port"],
            log=args.triton_log,
            traces=args.triton_traces,
            record=record,
            following=Following(
                traffic,
                partial(origins_of_classes, args.classes, args.vocabulary),
                restarts.add_switch,
                ports.triton["second-metrics-port"],
            ),
        ) as triton,
        ExitStack() as children,
    ):
        server = triton.server
        print(f"model    {summary_of(args.repository)}")
        print(f"triton   {server.grpc_url}  (log {server.log})")
        print(f"metrics  {server.metrics_url}", flush=True)
        # The last of several values of an option counts.
        options = [*gateway_options, "--triton", f"file://{traffic.file}", *ports.gateway]
        options += ["--restarts", str(restarts.path)]
        children.enter_context(supervised("gateway", options, restarts, args.grace))
        if not args.no_http:
            options = [*_http_options(args, ports.address), *ports.http]
            children.enter_context(supervised("http", options, restarts, args.grace))
        triton.run()


@contextmanager
def _traffic(ports: _Ports, max_seconds: float) -> Iterator[Traffic]:
    with tempfile.TemporaryDirectory(prefix="cpcsam-serve-") as folder:
        yield Traffic(Path(folder) / "tritons", f"http://{ports.metrics}/metrics", max_seconds)


def _http_options(args: argparse.Namespace, address: str) -> list[str]:
    """Return the options of `python -m serving.http` that correspond to those of this command."""
    config = http_config_from_args(_front(args), address, prefix="http_")
    options: dict[str, object] = {
        "--gateway": address,
        "--gateway-ca": config.gateway_ca,
        "--gateway-name": config.gateway_name,
        "--host": config.host,
        "--metrics-host": config.metrics_host,
        "--tls-cert": None if config.tls is None else config.tls.certificate,
        "--tls-key": None if config.tls is None else config.tls.key,
        "--max-body-bytes": config.max_body_bytes,
        "--max-held-bytes": config.max_held_bytes,
        "--max-connections": config.max_connections,
        "--max-in-flight": config.max_in_flight,
        "--upload-seconds": config.upload_s,
        "--unread-seconds": config.unread_s,
        "--max-seconds": config.max_seconds,
        "--grace": config.grace_s,
        "--log-format": args.log_format,
        "--label-studio-url": args.label_studio_url,
        "--label-studio-token-file": args.label_studio_token_file,
        "--label-studio-max-image-bytes": args.label_studio_max_image_bytes,
    }
    words = [f"{name}={value}" for name, value in options.items() if value is not None]
    words += [f"--cors-origin={origin}" for origin in config.cors_origins]
    words += [f"--allowed-host={name}" for name in config.allowed_hosts]
    if args.tracing is not None:
        words.append("--tracing" if args.tracing else "--no-tracing")
    # This command has seen to it that a gateway beyond loopback has tokens.
    return [*words, "--allow-anonymous"]


def _front(args: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments with those of the front that follow from the gateway's."""
    tls = tls_files(args.tls_cert, args.tls_key)
    # The front reaches the gateway by loopback, for which a public certificate is not.
    gateway = {
        "gateway_tls": tls is not None,
        "gateway_ca": tls and (args.gateway_ca or tls.certificate),
        "gateway_name": tls and tls.server_name(),
    }
    return argparse.Namespace(**{**vars(args), **gateway})


@contextmanager
def _checked_ports(args: argparse.Namespace) -> Iterator[_Ports]:
    """Check the options of both before Triton starts, and reserve their ports; yield those."""
    config_from_args(args, triton="")
    if not args.no_http:
        require_protection(
            "--http-host",
            args.http_host,
            has_tokens=args.tokens is not None,
            allow_anonymous=args.allow_anonymous,
        )
        http_config_from_args(_front(args), "", prefix="http_")
    requested = _requested_ports(args)
    require_distinct_ports(requested)
    with ExitStack() as held:
        ports = {
            option: held.enter_context(reserved_ports(host, {option: number}))[option]
            for option, (host, number) in requested.items()
        }
        api, metrics = ports["--port"], ports["--metrics-port"]
        yield _Ports(
            triton=_of_prefix(ports, "--triton-"),
            gateway=[f"--port={api}", f"--metrics-port={metrics}"],
            http=[f"--{name}={number}" for name, number in _of_prefix(ports, "--http-").items()],
            address=_reached(args.host, api),
            metrics=_reached(args.metrics_host, metrics),
        )


def _requested_ports(args: argparse.Namespace) -> dict[str, tuple[str, int]]:
    """Return host and port of each server by the option that names the port."""
    hosts = {"": args.host, "metrics-": args.metrics_host}
    if not args.no_http:
        hosts |= {"http-": args.http_host, "http-metrics-": args.http_metrics_host}
    triton = ("grpc", "http", "metrics", "second-metrics")
    hosts |= {f"triton-{name}-": HOST for name in triton}
    return {
        f"--{name}port": (host, getattr(args, f"{name}port".replace("-", "_")))
        for name, host in hosts.items()
    }


def _of_prefix(ports: Mapping[str, int], prefix: str) -> dict[str, int]:
    return {
        option.removeprefix(prefix): number
        for option, number in ports.items()
        if option.startswith(prefix)
    }


def _reached(host: str, port: int) -> str:
    """Return the address at which a server that listens on a host is reached from this machine."""
    bare = host.strip("[]")
    return address_of({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bare, bare), port)


if __name__ == "__main__":
    sys.exit(main())
