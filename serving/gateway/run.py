"""Foreground run of a gateway until a signal stops it."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Coroutine
from typing import Any, Final

from serving.gateway.config import GatewayConfig
from serving.gateway.server import start_gateway

__all__ = ["run_until_stopped"]

GC_THRESHOLDS: Final = (700, 10, 2)
"""Thresholds of the garbage collector: the last generation is collected five times as often as by
default."""


async def run_until_stopped(
    config: GatewayConfig, end: Coroutine[Any, Any, None] | None = None
) -> None:
    """Run a gateway until SIGTERM or SIGINT, and print its addresses.

    Args:
        config: of the gateway.
        end: also stops the gateway when it returns or raises.

    Raises:
        ServingError: as `start_gateway`.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    ends: list[asyncio.Task[Any]] = [asyncio.create_task(stopped.wait())]
    if end is not None:
        ends.append(asyncio.create_task(end))
    try:
        async with start_gateway(config) as gateway:
            _shorten_garbage_collection()
            print(f"gateway  {gateway.address}  (Triton {config.triton})")
            print(f"metrics  {gateway.metrics_url}", flush=True)
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in ends:
            task.cancel()


def _shorten_garbage_collection() -> None:
    """Keep full garbage collections from halting all requests for a tenth of a second.

    By default a full collection visits every loaded object and the garbage of ten seconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
