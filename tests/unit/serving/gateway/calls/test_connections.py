"""Connections of clients that read slowly, or not at all."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from serving.gateway.calls.connections import close_when_unread


@pytest.fixture(params=["127.0.0.1", "::1", "dual"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket, str]]:
    """The server's end of a connection, the client's, and the peer as gRPC names it."""
    if request.param == "127.0.0.1":
        listener = socket.create_server((request.param, 0))
    else:
        listener = socket.create_server(
            ("::", 0), family=socket.AF_INET6, dualstack_ipv6=request.param == "dual"
        )
    host = "::1" if request.param == "::1" else "127.0.0.1"
    with closing(listener):
        client = socket.create_connection((host, listener.getsockname()[1]))
        served, _ = listener.accept()
    port = client.getsockname()[1]
    peer = f"ipv6:%5B::1%5D:{port}" if host == "::1" else f"ipv4:{host}:{port}"
    served.setblocking(False)
    with closing(client), closing(served):
        yield served, client, peer


def fill(served: socket.socket) -> None:
    while True:
        try:
            served.send(bytes(100_000))
        except BlockingIOError:
            return


async def test_connection_that_takes_nothing_is_ended(
    ends: tuple[socket.socket, socket.socket, str],
) -> None:
    served, client, peer = ends
    fill(served)
    assert await asyncio.wait_for(close_when_unread(peer, 0.2), 60)
    with pytest.raises(BrokenPipeError):
        served.send(b"more")


async def test_connection_that_is_read_slowly_is_kept(
    ends: tuple[socket.socket, socket.socket, str],
) -> None:
    served, client, peer = ends
    watch = asyncio.create_task(close_when_unread(peer, 0.2))
    for _ in range(20):
        fill(served)
        await asyncio.sleep(0.05)
        client.recv(1_000_000)
    assert not watch.done()
    watch.cancel()


@pytest.mark.parametrize("peer", ["ipv4:127.0.0.1:1", "unix:/run/x", ""])
async def test_unknown_connection_is_not_found(peer: str) -> None:
    assert not await close_when_unread(peer, 0.01)
