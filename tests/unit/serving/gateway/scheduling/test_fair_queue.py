"""Slots are never more than there are, never lost, and shared evenly."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.gateway.limits import GROUPS
from serving.gateway.scheduling.fair_queue import FairSemaphore


async def settle() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


async def two_a_group(waiting: int) -> tuple[FairSemaphore, list[asyncio.Task[None]]]:
    """Slots that "a" holds all of, and as many requests of "b" that wait."""
    slots = FairSemaphore(2 * GROUPS)
    for _ in range(2 * GROUPS):
        await slots.acquire("a")
    tasks = [asyncio.create_task(slots.acquire("b")) for _ in range(waiting)]
    await settle()
    return slots, tasks


async def test_release_grants_a_newcomer_before_the_holder_of_most() -> None:
    slots, order = FairSemaphore(2), []

    async def ask(client: str) -> None:
        await slots.acquire(client)
        order.append(client)

    tasks = [asyncio.create_task(ask("greedy")) for _ in range(6)]
    await settle()
    assert order == ["greedy"] * 2 and slots.waiting == 4
    tasks.append(asyncio.create_task(ask("modest")))
    await settle()
    slots.release("greedy")
    await settle()
    assert order[-1] == "modest"
    for client in ("modest", "greedy", "greedy", "greedy", "greedy"):
        slots.release(client)
        await settle()
    assert order[-4:] == ["greedy"] * 4 and not slots.waiting
    await asyncio.gather(*tasks)


async def test_release_among_equal_holders_is_round_robin() -> None:
    slots, order = FairSemaphore(1), []
    await slots.acquire("first")

    async def ask(client: str) -> None:
        await slots.acquire(client)
        order.append(client)
        slots.release(client)

    tasks = [asyncio.create_task(ask(client)) for client in "aaabbbc"]
    await settle()
    slots.release("first")
    await asyncio.gather(*tasks)
    assert order == list("abcabab") and not slots.waiting


async def test_release_with_newcomers_keeps_the_order_of_waiting() -> None:
    """However many come and go meanwhile, the one who waits is at most one round away."""
    slots, order = FairSemaphore(1), []

    async def ask(client: str) -> None:
        await slots.acquire(client)
        order.append(client)

    await slots.acquire("large")
    slots.release("large")
    await slots.acquire("other")
    tasks = [asyncio.create_task(ask(client)) for client in ("large", "new-0")]
    await settle()
    holder = "other"
    for number in range(1, 6):
        tasks.append(asyncio.create_task(ask(f"new-{number}")))
        await settle()
        slots.release(holder)
        await settle()
        holder = order[-1]
    assert order[0] == "large" and order[1:] == [f"new-{number}" for number in range(4)]
    for task in tasks:
        task.cancel()


async def test_release_prefers_started_requests_of_the_same_client() -> None:
    slots, order = FairSemaphore(1), []
    await slots.acquire("a")

    async def ask(name: str, turns: int) -> None:
        await slots.acquire("a", turns)
        order.append(name)
        slots.release("a")

    asked = [("new-0", 0), ("begun-0", 2), ("new-1", 0), ("begun-1", 5)]
    tasks = [asyncio.create_task(ask(*one)) for one in asked]
    await settle()
    slots.release("a")
    await asyncio.gather(*tasks)
    assert order == ["begun-0", "begun-1", "new-0", "new-1"]


async def test_release_prefers_second_turns_but_not_further_ones() -> None:
    slots, order = FairSemaphore(1), []
    await slots.acquire("x")

    async def ask(client: str, turns: int) -> None:
        await slots.acquire(client, turns)
        order.append(client)
        slots.release(client)

    asked = [("new", 0), ("third", 2), ("second", 1)]
    tasks = [asyncio.create_task(ask(*one)) for one in asked]
    await settle()
    slots.release("x")
    await asyncio.gather(*tasks)
    assert order == ["second", "new", "third"]


async def test_resize_keeps_held_permits_and_grants_new_ones() -> None:
    slots = FairSemaphore(2)
    await slots.acquire("a")
    await slots.acquire("b")
    slots.resize(1)
    waiting = [asyncio.create_task(slots.acquire("c")) for _ in range(2)]
    slots.release("a")
    await settle()
    assert slots.held == 1 and slots.waiting == 2
    slots.resize(3)
    await asyncio.wait_for(asyncio.gather(*waiting), 1)
    assert slots.held == 3


async def test_release_with_many_waiting_grants_in_groups() -> None:
    slots, waiting = await two_a_group(waiting=3)
    slots.release("a")
    await settle()
    assert slots.held == 2 * GROUPS - 1 and slots.waiting == 3
    slots.release("a")
    await settle()
    assert slots.held == 2 * GROUPS and slots.waiting == 1
    slots.release("a")  # one waits, one is free
    await asyncio.wait_for(asyncio.gather(*waiting), 1)


async def test_acquire_when_cancelled_leaves_free_permits_to_others() -> None:
    slots, waiting = await two_a_group(waiting=2)
    slots.release("a")
    await settle()
    assert slots.waiting == 2
    waiting[0].cancel()
    await asyncio.wait_for(waiting[1], 1)
    assert slots.held == 2 * GROUPS


async def test_acquire_when_cancelled_takes_no_permit() -> None:
    slots = FairSemaphore(1)
    await slots.acquire("a")
    waiting = [asyncio.create_task(slots.acquire("b")) for _ in range(3)]
    await settle()
    waiting[0].cancel()
    slots.release("a")  # in the same moment: the cancelled one must not get it
    waiting[1].cancel()  # granted, and cancelled before it knew
    await settle()
    assert waiting[2].done() and not waiting[2].cancelled()
    slots.release("b")
    await asyncio.wait_for(slots.acquire("c"), 1)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(
    st.integers(1, 8),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans()), max_size=30),
)
def test_semaphore_conserves_permits(count: int, asked: list[tuple[str, int, bool]]) -> None:
    async def run() -> None:
        slots, held = FairSemaphore(count), Counter[str]()

        async def use(client: str, rounds: int) -> None:
            await slots.acquire(client)
            held[client] += 1
            assert held.total() <= count
            try:
                for _ in range(rounds):
                    await asyncio.sleep(0)
            finally:
                held[client] -= 1
                slots.release(client)

        tasks = []
        for client, rounds, gives_up in asked:
            tasks.append(asyncio.create_task(use(client, rounds)))
            await asyncio.sleep(0)
            if gives_up:
                tasks[-rounds - 1 if rounds < len(tasks) else -1].cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert not slots.waiting and not +held
        for _ in range(count):
            await asyncio.wait_for(slots.acquire("z"), 1)

    asyncio.run(run())
