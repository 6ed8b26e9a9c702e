"""Run a gateway in the foreground until a signal stops it, or in a background thread."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, Final

from cpcsam.errors import ServingError
from serving.common.memory import reuse_freed_memory, shorten_garbage_collection
from serving.gateway.config import GatewayConfig
from serving.gateway.server import Gateway, start_gateway

__all__ = ["gateway_in_background", "run_until_stopped"]

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


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
    for number in SIGNALS:
        loop.add_signal_handler(number, stopped.set)
    ends: list[asyncio.Task[Any]] = [asyncio.create_task(stopped.wait())]
    if end is not None:
        ends.append(asyncio.create_task(end))
    try:
        async with start_gateway(config) as gateway:
            shorten_garbage_collection()
            reuse_freed_memory()
            print(f"gateway  {gateway.address}  (Triton {config.triton})")
            print(f"metrics  {gateway.metrics_url}", flush=True)
            ends.append(asyncio.create_task(_fail_at_end_of(gateway)))
            done, others = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in others:  # from here on the server ends as it should
                task.cancel()
        for task in done:
            task.result()
    finally:
        for task in ends:
            task.cancel()
        for number in SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)  # a second one would meet a closed loop


async def _fail_at_end_of(gateway: Gateway) -> None:
    """Wait until the gRPC server ends by itself.

    Raises:
        ServingError: it has.
    """
    try:
        await asyncio.shield(gateway.wait_for_end())  # gRPC itself waits for the same future
    except Exception as error:
        raise _ended(f"{type(error).__name__}") from error
    raise _ended("its end")


def _ended(got: str) -> ServingError:
    return ServingError.of(
        "gRPC server", got=got, expected="a running server", fix="start the gateway again"
    )


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
