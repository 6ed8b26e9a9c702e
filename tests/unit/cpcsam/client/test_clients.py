"""Both clients offer the same, and a waiting connection never suspends."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from typing import Any

import pytest

from cpcsam.client import sync_client as client
from cpcsam.client.async_client import AsyncSegmentationClient
from cpcsam.client.sync_client import Prompt, SegmentationClient
from cpcsam.errors import ServingError
from tests.support.gateway_peer import Peer, peer_gateway


def surface(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member).replace(return_annotation=None)
        for name, member in inspect.getmembers(kind, callable)
        if not name.startswith("_")
    }


def test_both_clients_have_the_same_calls_with_the_same_arguments() -> None:
    waiting, suspending = surface(SegmentationClient), surface(AsyncSegmentationClient)
    assert {"segment", "describe", "classes", "add_class", "remove_class", "healthy"} < set(waiting)
    assert waiting == suspending
    for name in waiting:
        assert getattr(SegmentationClient, name).__doc__, name
        suspends = getattr(AsyncSegmentationClient, name)
        assert inspect.iscoroutinefunction(suspends) or inspect.isasyncgenfunction(suspends)


def test_a_connection_that_would_suspend_a_waiting_call_is_refused() -> None:
    class Suspending(client.WaitingConnection):
        async def aside(self, work, *args, **kwargs):  # type: ignore[no-untyped-def]
            await asyncio.sleep(0)

    with SegmentationClient() as waiting:
        waiting._connection = Suspending(waiting._endpoint)
        with pytest.raises(RuntimeError, match="a waiting connection has suspended"):
            waiting.segment(b"")


async def closed_while_it_asks(kind: type[Any], address: str, peer: Peer) -> BaseException:
    """What a call gets whose client is closed meanwhile; a further call must get an error too."""
    asking = kind(address, retry=False)
    peer.meet = threading.Barrier(2)  # it is never answered
    waiting = kind is SegmentationClient
    ask = functools.partial(asking.segment, b"image", [Prompt.click(1, 1)])
    task = asyncio.create_task(asyncio.to_thread(ask) if waiting else ask())
    while not peer.requests:
        assert not task.done()
        await asyncio.sleep(0.01)
    closing = asking.close()
    if not waiting:
        await closing
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    with pytest.raises(ServingError, match="client: got a closed one"):
        asking.describe() if waiting else await asking.describe()
    return outcome


@pytest.mark.parametrize("kind", [SegmentationClient, AsyncSegmentationClient])
async def test_closing_ends_what_is_in_work_by_an_error(kind: type[Any]) -> None:
    with peer_gateway() as (address, peer):
        outcome = await closed_while_it_asks(kind, address, peer)
    assert type(outcome) is ServingError, outcome
