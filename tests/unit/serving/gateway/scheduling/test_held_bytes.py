"""Budget of bytes: bounded in all and by client, with room for small requests."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from cpcsam.grpc_errors import FullError
from serving.gateway.scheduling.held_bytes import SMALL, HeldBytes

LARGE = 40 << 20


async def test_hold_bounds_all_requests_and_those_of_a_client() -> None:
    held = HeldBytes(4 * LARGE)
    async with AsyncExitStack() as running:
        for client in ("lab", "lab", "ward"):
            await running.enter_async_context(held.hold(client, LARGE))
        with pytest.raises(FullError, match=f"got {2 * LARGE} bytes already, expected at most"):
            await running.enter_async_context(held.hold("lab", SMALL + 1))
        await running.enter_async_context(held.hold("ward", LARGE))
        with pytest.raises(FullError, match=f"got {4 * LARGE} bytes already, expected at most"):
            await running.enter_async_context(held.hold("other", SMALL + 1))
        for client in ("lab", "other"):
            await running.enter_async_context(held.hold(client, SMALL))
    async with held.hold("other", 5 * LARGE):
        pass


async def test_hold_is_given_back_by_a_failure() -> None:
    held = HeldBytes(LARGE)
    for _ in range(3):
        with pytest.raises(ValueError, match="failed"):
            async with held.hold("lab", LARGE):
                raise ValueError("failed")


async def test_hold_that_waits_gets_room_when_another_ends_and_none_when_cancelled() -> None:
    held = HeldBytes(LARGE)
    entered = asyncio.Event()

    async def wait() -> None:
        async with held.hold("lab", LARGE, wait=True):
            entered.set()

    async with held.hold("lab", LARGE):
        cancelled, waiting = asyncio.create_task(wait()), asyncio.create_task(wait())
        await asyncio.sleep(0.01)
        assert not entered.is_set()
        cancelled.cancel()
    await waiting
    assert entered.is_set() and cancelled.cancelled()
