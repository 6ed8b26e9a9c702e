"""Command: the health of a gateway, by the gRPC health service, which asks for no token.

python -m serving.health
python -m serving.health --address 127.0.0.1:50051 --tls-cert server.pem

For the health check of a container: the exit status is 0 while the gateway serves, and 2 if it does
not, or does not answer. `--tls-cert` takes the gateway's own certificate, which is the only one
that is trusted then, under any of its names.
"""

from __future__ import annotations

import argparse
import socket
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cpcsam.commands import parser_of, positive, run_command
from cpcsam.errors import ConfigError, ServingError
from serving.common.tls import leaf_of, name_in, trusting

__all__ = ["main"]

PROG: Final = "python -m serving.health"
SERVING: Final = health_pb2.HealthCheckResponse.SERVING
DIRECT: Final = (("grpc.enable_http_proxy", 0),)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = parser_of(PROG, __doc__)
    text = "of the gateway (%(default)s)"
    parser.add_argument("--address", default="127.0.0.1:50051", metavar="HOST:PORT", help=text)
    text = "certificate that the gateway serves with, PEM (plain text)"
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help=text)
    text = "for an answer (%(default)s)"
    parser.add_argument("--timeout", type=positive, default=2.0, metavar="S", help=text)
    return run_command(parser, _check, argv)


def _check(args: argparse.Namespace) -> None:
    with _channel(args.address, args.tls_cert, args.timeout) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = health.Check(health_pb2.HealthCheckRequest(), timeout=args.timeout)
        except grpc.RpcError as error:
            got = f"{error.code().name}: {error.details()}"
        else:
            got = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
            if answer.status == SERVING:
                return
    raise _unhealthy(args.address, got)


def _channel(address: str, certificate: Path | None, timeout_s: float) -> grpc.Channel:
    if certificate is None:
        return grpc.insecure_channel(address, options=DIRECT)
    try:
        leaf = leaf_of(certificate)
        trusted = trusting(leaf)
    except (OSError, ValueError) as error:
        raise ConfigError.of(
            f"--tls-cert {certificate}",
            got=getattr(error, "strerror", None) or str(error),
            expected="the gateway's certificate in PEM",
            fix="correct the path",
        ) from error
    return grpc.secure_channel(
        address,
        grpc.ssl_channel_credentials(leaf.encode()),
        options=(
            *DIRECT,
            ("grpc.ssl_target_name_override", _certified_name(address, trusted, timeout_s)),
        ),
    )


def _certified_name(address: str, trusted: ssl.SSLContext, timeout_s: float) -> str:
    """Return a name or an address that the gateway's certificate is for, as the server shows it."""
    host, _, port = address.rpartition(":")
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), timeout_s) as connection,
            trusted.wrap_socket(connection) as secured,
        ):
            return name_in(secured) or host
    except (OSError, ValueError) as error:
        raise _unhealthy(address, str(error)) from error


def _unhealthy(address: str, got: str) -> ServingError:
    return ServingError.of(
        f"gateway at {address}", got=got, expected="SERVING", fix="see its log, and Triton's"
    )


if __name__ == "__main__":
    sys.exit(main())
