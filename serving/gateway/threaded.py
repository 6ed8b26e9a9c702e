"""Gateway in a background thread, for synchronous callers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress

from serving.gateway.server import Gateway, GatewayConfig, start_gateway

__all__ = ["gateway_in_background"]


@contextmanager
def gateway_in_background(config: GatewayConfig) -> Iterator[Gateway]:
    """Run a gateway while the block runs, in a thread with its own event loop.

    Raises:
        ServingError: as `start_gateway`.
    """
    started: Future[Gateway] = Future()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()  # set only inside the loop's thread

    async def run() -> None:
        async with start_gateway(config) as gateway:
            started.set_result(gateway)
            await stop.wait()

    def run_loop() -> None:
        try:
            loop.run_until_complete(run())
        except BaseException as error:  # the caller's thread raises it
            if started.done():
                raise
            started.set_exception(error)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    thread = threading.Thread(target=run_loop, name="gateway")
    thread.start()
    try:
        yield started.result()
    finally:
        with suppress(RuntimeError):  # the loop is closed if the start failed
            loop.call_soon_threadsafe(stop.set)
        thread.join()
