"""The HTTP front in the foreground: uvicorn, the metrics endpoint, and the end by a signal."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import grpc
import uvicorn

from cpcsam.errors import ConfigError, ServingError
from cpcsam.v1 import segmentation_pb2 as pb
from serving.common.exposure import address_of, is_loopback
from serving.common.memory import reuse_freed_memory, shorten_garbage_collection
from serving.common.metrics_server import serve_metrics
from serving.http.app import create_app
from serving.http.caller import Caller
from serving.http.config import HttpConfig
from serving.http.connections import connection_class
from serving.http.gateway import Gateway
from serving.supervision.heartbeat import Heartbeat

__all__ = ["listening_socket", "run_until_stopped"]

LOG = logging.getLogger(__name__)
KEEP_ALIVE_S: Final = 30
MAX_HEADER_BYTES: Final = 32 * 1024
WAIT_S: Final = 60.0
"""Seconds for a gateway to come that must say whether it requires tokens."""


async def run_until_stopped(config: HttpConfig, heartbeat: Heartbeat) -> None:
    """Run the front until SIGTERM or SIGINT, and print its addresses.

    Args:
        config: of the front.
        heartbeat: beats while the event loop runs.

    Raises:
        ServingError: one of its two addresses cannot be listened on.
        ConfigError: the certificates cannot be used, or the gateway requires no tokens and others
            than this machine reach the front.
    """
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    beating = asyncio.create_task(heartbeat.beat_on())
    try:
        await _run(config)
    finally:
        beating.cancel()


async def _run(config: HttpConfig) -> None:
    await _require_tokens(config)
    app = create_app(config)
    listener = listening_socket(config)
    registry = app.state.metrics.registry
    async with serve_metrics(registry, config.metrics_host, config.metrics_port) as metrics_port:
        scheme = "http" if config.tls is None else "https"
        port = listener.getsockname()[1]

        def announce() -> None:
            shorten_garbage_collection()
            reuse_freed_memory()
            url = f"{scheme}://{address_of(config.host, port)}/"
            print(f"http     {url}  (gateway {config.gateway})")
            metrics = address_of(config.metrics_host, metrics_port)
            print(f"metrics  http://{metrics}/metrics", flush=True)

        server = _Server(
            uvicorn.Config(
                app,
                http=connection_class(config.max_connections, config.unread_s),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, round(config.grace_s)),
                h11_max_incomplete_event_size=MAX_HEADER_BYTES,
                ssl_certfile=None if config.tls is None else config.tls.certificate,
                ssl_keyfile=None if config.tls is None else config.tls.key,
            ),
            announce,
        )
        await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    """Server that tells when it listens, and after a signal ends without raising it again."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def listening_socket(config: HttpConfig) -> socket.socket:
    """Bind the address and return the socket.

    Raises:
        ServingError: the address is taken or not of this machine.
    """
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host.strip("[]"), config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # Without the protocol's number asyncio leaves Nagle's algorithm on, which costs 40 ms.
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise ServingError.of(
            "port",
            got=f"{address_of(config.host, config.port)} ({error.strerror})",
            expected="an address of this machine that is free",
            fix="stop what listens there or give another --port",
        ) from error
    return listener


async def _require_tokens(config: HttpConfig) -> None:
    """Require that the gateway of a front that others reach refuses callers without a token.

    Raises:
        ConfigError: it does not.
        ServingError: there is no gateway that would tell.
    """
    if config.allow_anonymous or is_loopback(config.host):
        return
    gateway = Gateway(config.endpoint)
    try:
        await _wait_for(gateway, config.gateway)
        await gateway.call("ListClasses", pb.ListClassesRequest(), Caller(None, WAIT_S, ""))
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            return
        LOG.info("the gateway answered %s to a caller without a token", error.code().name)
    finally:
        await gateway.close()
    raise ConfigError.of(
        "--host",
        got=f"{config.host} before a gateway without --tokens, where anyone has full access",
        expected="a gateway with tokens, or an address of loopback",
        fix="give the gateway --tokens FILE, or --allow-anonymous if the network itself keeps "
        "others out",
    )


async def _wait_for(gateway: Gateway, address: str) -> None:
    try:
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    await gateway.is_healthy(timeout_s=WAIT_S)
                    return
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.5)
    except TimeoutError:
        raise ServingError.of(
            "--gateway",
            got=f"no answer of {address} within {WAIT_S:g} s",
            expected="a gateway, which must tell whether it requires tokens",
            fix="start it, correct the address, or give --allow-anonymous",
        ) from None
