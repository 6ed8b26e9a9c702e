"""Both clients offer the same, and a waiting connection never suspends."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from cpcsam import async_client, client
from cpcsam.async_client import AsyncSegmentationClient
from cpcsam.client import SegmentationClient


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


def test_both_modules_bring_the_same_names() -> None:
    assert {*client.__all__, "AsyncSegmentationClient"} == {
        *async_client.__all__,
        "SegmentationClient",
    }


def test_a_connection_that_would_suspend_a_waiting_call_is_refused() -> None:
    class Suspending(client.WaitingConnection):
        async def aside(self, work, *args, **kwargs):  # type: ignore[no-untyped-def]
            await asyncio.sleep(0)

    with SegmentationClient() as waiting:
        waiting._connection = Suspending(waiting._endpoint)
        with pytest.raises(RuntimeError, match="a waiting connection has suspended"):
            waiting.segment(b"")
