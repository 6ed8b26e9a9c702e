"""Watchdog of the event loop: how late it runs what is due."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Final

from serving.gateway.metrics import Metrics
from serving.supervision.heartbeat import Heartbeat

__all__ = ["watch_loop"]

PERIOD_S: Final = 0.02
"""Delays that are shorter go unnoticed in part."""


@asynccontextmanager
async def watch_loop(metrics: Metrics, heartbeat: Heartbeat) -> AsyncIterator[None]:
    """Observe the lag of the running event loop while the block runs.

    Args:
        metrics: get it as `loop_lag`.
        heartbeat: beats while the loop runs.
    """
    watchdog = asyncio.create_task(_observe(metrics, heartbeat))
    try:
        yield
    finally:
        watchdog.cancel()


async def _observe(metrics: Metrics, heartbeat: Heartbeat) -> None:
    while True:
        heartbeat.beat()
        due = monotonic() + PERIOD_S
        await asyncio.sleep(PERIOD_S)
        metrics.loop_lag.observe(max(0.0, monotonic() - due))
