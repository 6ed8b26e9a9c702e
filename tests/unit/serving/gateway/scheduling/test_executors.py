"""Thread pools: fair between clients, and rid of work for which nobody waits."""

from __future__ import annotations

import asyncio
from threading import Event
from time import sleep

import pytest

from serving.gateway.scheduling.executors import (
    AbandonedError,
    FairExecutor,
    open_executors,
    stop_if_abandoned,
)


async def test_run_gives_the_next_free_thread_to_the_client_with_the_fewest() -> None:
    executor, free, order = FairExecutor("test", 1), Event(), []
    first = asyncio.create_task(executor.run("many", free.wait, 10))
    await asyncio.sleep(0)
    calls = [
        asyncio.create_task(executor.run(client, order.append, client))
        for client in ("many", "many", "many", "few")
    ]
    await asyncio.sleep(0)
    free.set()
    await asyncio.gather(first, *calls)
    assert order.index("few") <= 1
    executor.close()


async def test_cancelled_function_keeps_its_thread_until_it_ends() -> None:
    executor, free, ended = FairExecutor("test", 1), Event(), []

    def work() -> None:
        free.wait(10)
        ended.append(1)

    running = asyncio.create_task(executor.run("a", work))
    await asyncio.sleep(0.05)
    running.cancel()
    next_one = asyncio.create_task(executor.run("b", ended.append, 2))
    await asyncio.sleep(0.05)
    assert running.cancelled() and ended == []
    free.set()
    await next_one
    assert ended == [1, 2]
    executor.close()


async def test_function_for_which_nobody_waits_stops_at_its_next_step() -> None:
    with open_executors() as executors:
        begun, ended = Event(), Event()

        def work() -> None:
            begun.set()
            try:
                for _ in range(12_000):
                    stop_if_abandoned()
                    sleep(0.005)
            except AbandonedError:
                ended.set()
                raise

        waiting = asyncio.create_task(executors.answers.run("client", work))
        assert await asyncio.to_thread(begun.wait, 60)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await asyncio.to_thread(ended.wait, 60)
        assert await executors.answers.run("client", lambda: stop_if_abandoned()) is None


async def test_failure_of_a_function_is_raised() -> None:
    with open_executors() as executors, pytest.raises(ValueError, match="invalid literal"):
        await executors.headers.run("client", int, "x")


async def test_pixels_of_large_images_are_worked_on_one_image_at_a_time() -> None:
    with open_executors() as executors:
        assert executors.pixels_of((4096, 4096)) is executors.pixels
        large, running, most = executors.pixels_of((4096, 4097)), [], 0

        def work() -> None:
            nonlocal most
            running.append(1)
            most = max(most, len(running))
            sleep(0.02)
            running.pop()

        await asyncio.gather(*(large.run(client, work) for client in ("a", "b", "a")))
    assert most == 1
