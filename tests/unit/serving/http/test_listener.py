"""The socket on which the front listens."""

from __future__ import annotations

import asyncio
import socket

import pytest

from cpcsam.errors import ServingError
from serving.http.config import HttpConfig
from serving.http.server import listening_socket


async def test_accepted_connections_do_not_delay_small_segments() -> None:
    accepted: list[socket.socket] = []

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.append(transport.get_extra_info("socket"))

    listener = listening_socket(HttpConfig(port=0))
    server = await asyncio.get_running_loop().create_server(Protocol, sock=listener)
    _, writer = await asyncio.open_connection(*listener.getsockname())
    while not accepted:
        await asyncio.sleep(0.01)
    assert accepted[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    writer.close()
    server.close()


def test_address_that_is_taken_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServingError, match=rf"port: got 127\.0\.0\.1:{port}"):
            listening_socket(HttpConfig(port=port))
