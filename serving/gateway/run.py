"""Run a gateway in the foreground until a signal stops it, or in a background thread."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import signal
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, Final

from cpcsam.errors import ServingError
from serving.gateway.config import GatewayConfig
from serving.gateway.server import Gateway, start_gateway

__all__ = ["gateway_in_background", "run_until_stopped"]

GC_THRESHOLDS: Final = (700, 10, 2)
"""Thresholds of the garbage collector: the last generation is collected five times as often as by
default."""
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
LARGE: Final = 1 << 20
"""Bytes of a block that is large."""


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
    _return_freed_memory()
    try:
        async with start_gateway(config) as gateway:
            _shorten_garbage_collection()
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


def _shorten_garbage_collection() -> None:
    """Keep full garbage collections from halting all requests for a tenth of a second.

    By default a full collection visits every loaded object and the garbage of ten seconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _return_freed_memory() -> None:
    """Have memory reused, and that of large messages returned to the system, once it is freed.

    By default glibc keeps blocks of up to 32 MB, once one was freed, in heaps that fragment, and
    gives each of gRPC's threads a heap of its own. It is to be called before there are threads.
    """
    with suppress(AttributeError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, LARGE)
        library.mallopt(M_ARENA_MAX, 1)


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
