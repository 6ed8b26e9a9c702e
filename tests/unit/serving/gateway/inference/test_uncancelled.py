"""Calls shielded from cancellation."""

from __future__ import annotations

import asyncio

import pytest

from serving.gateway.scheduling.concurrency import UncancelledCalls


async def test_run_with_a_cancelled_caller_completes() -> None:
    calls, gate, ended = UncancelledCalls(), asyncio.Event(), []

    async def call() -> int:
        await gate.wait()
        ended.append(True)
        return 7

    principal = asyncio.create_task(calls.run(call()))
    await asyncio.sleep(0)
    assert calls.abandoned == 0
    await asyncio.sleep(0)
    principal.cancel()
    with pytest.raises(asyncio.CancelledError):
        await principal
    assert calls.abandoned == 1
    await calls.finish(0.01)
    assert calls.abandoned == 1 and not ended
    gate.set()
    await calls.finish(5)
    await asyncio.sleep(0)
    assert calls.abandoned == 0 and ended == [True]


async def test_run_returns_results_and_raises_errors() -> None:
    calls = UncancelledCalls()

    async def call(value: int) -> int:
        if value < 0:
            raise ValueError("negative")
        return value

    assert await calls.run(call(3)) == 3
    with pytest.raises(ValueError, match="negative"):
        await calls.run(call(-1))
    await calls.finish(1)
    assert calls.abandoned == 0
