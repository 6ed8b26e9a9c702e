"""Simulated time, so that tests of waiting neither wait nor depend on the machine's load."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from serving.gateway import metrics
from serving.gateway.scheduling import admission, call_queue, call_times, refusals


@pytest.fixture
async def simulated_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clock stand still while anything runs, and else jump to the loop's next timer."""
    loop: Any = asyncio.get_running_loop()
    now = [time.monotonic()]
    select = loop._selector.select

    def jump(timeout: float | None = None) -> Any:
        events = select(0 if timeout else timeout)
        if timeout and not events:
            now[0] += timeout
        return events

    monkeypatch.setattr(loop._selector, "select", jump)
    for owner, name in (
        (loop, "time"),
        (metrics, "perf_counter"),
        *((module, "monotonic") for module in (admission, call_queue, call_times, refusals, time)),
    ):
        monkeypatch.setattr(owner, name, lambda: now[0])
