"""Fair semaphore: permits are bounded, conserved and shared evenly."""

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


async def semaphore_with_two_per_group(
    waiting: int,
) -> tuple[FairSemaphore, list[asyncio.Task[None]]]:
    """Return a semaphore whose permits "a" holds all, and waiting requests of "b"."""
    semaphore = FairSemaphore(2 * GROUPS)
    for _ in range(2 * GROUPS):
        await semaphore.acquire("a")
    tasks = [asyncio.create_task(semaphore.acquire("b")) for _ in range(waiting)]
    await settle()
    return semaphore, tasks


async def test_release_grants_a_newcomer_before_the_holder_of_most() -> None:
    semaphore, order = FairSemaphore(2), []

    async def acquire(client: str) -> None:
        await semaphore.acquire(client)
        order.append(client)

    tasks = [asyncio.create_task(acquire("greedy")) for _ in range(6)]
    await settle()
    assert order == ["greedy"] * 2 and semaphore.waiting == 4
    tasks.append(asyncio.create_task(acquire("modest")))
    await settle()
    semaphore.release("greedy")
    await settle()
    assert order[-1] == "modest"
    for client in ("modest", "greedy", "greedy", "greedy", "greedy"):
        semaphore.release(client)
        await settle()
    assert order[-4:] == ["greedy"] * 4 and not semaphore.waiting
    await asyncio.gather(*tasks)


async def test_release_among_equal_holders_is_round_robin() -> None:
    semaphore, order = FairSemaphore(1), []
    await semaphore.acquire("first")

    async def acquire(client: str) -> None:
        await semaphore.acquire(client)
        order.append(client)
        semaphore.release(client)

    tasks = [asyncio.create_task(acquire(client)) for client in "aaabbbc"]
    await settle()
    semaphore.release("first")
    await asyncio.gather(*tasks)
    assert order == list("abcabab") and not semaphore.waiting


async def test_release_with_newcomers_keeps_the_order_of_waiting() -> None:
    """A waiting client is at most a round away, however many come and go meanwhile."""
    semaphore, order = FairSemaphore(1), []

    async def acquire(client: str) -> None:
        await semaphore.acquire(client)
        order.append(client)

    await semaphore.acquire("large")
    semaphore.release("large")
    await semaphore.acquire("other")
    tasks = [asyncio.create_task(acquire(client)) for client in ("large", "new-0")]
    await settle()
    holder = "other"
    for number in range(1, 6):
        tasks.append(asyncio.create_task(acquire(f"new-{number}")))
        await settle()
        semaphore.release(holder)
        await settle()
        holder = order[-1]
    assert order[0] == "large" and order[1:] == [f"new-{number}" for number in range(4)]
    for task in tasks:
        task.cancel()


async def test_release_prefers_started_requests_of_the_same_client() -> None:
    semaphore, order = FairSemaphore(1), []
    await semaphore.acquire("a")

    async def acquire(name: str, turns: int) -> None:
        await semaphore.acquire("a", turns)
        order.append(name)
        semaphore.release("a")

    requests = [("new-0", 0), ("begun-0", 2), ("new-1", 0), ("begun-1", 5)]
    tasks = [asyncio.create_task(acquire(*request)) for request in requests]
    await settle()
    semaphore.release("a")
    await asyncio.gather(*tasks)
    assert order == ["begun-0", "begun-1", "new-0", "new-1"]


async def test_release_prefers_second_turns_but_not_further_ones() -> None:
    semaphore, order = FairSemaphore(1), []
    await semaphore.acquire("x")

    async def acquire(client: str, turns: int) -> None:
        await semaphore.acquire(client, turns)
        order.append(client)
        semaphore.release(client)

    requests = [("new", 0), ("third", 2), ("second", 1)]
    tasks = [asyncio.create_task(acquire(*request)) for request in requests]
    await settle()
    semaphore.release("x")
    await asyncio.gather(*tasks)
    assert order == ["second", "new", "third"]


async def test_a_client_that_holds_all_it_may_leaves_the_rest_to_others() -> None:
    semaphore = FairSemaphore(2, each=1)
    greedy = [asyncio.create_task(semaphore.acquire("greedy")) for _ in range(2)]
    await settle()
    assert [task.done() for task in greedy] == [True, False]
    await asyncio.wait_for(semaphore.acquire("modest"), 1)
    semaphore.release("modest")
    await settle()
    assert not greedy[1].done()
    semaphore.release("greedy")
    await asyncio.wait_for(greedy[1], 1)
    semaphore.release("greedy")
    assert not semaphore.held and not semaphore.waiting


async def test_resize_keeps_held_permits_and_grants_new_ones() -> None:
    semaphore = FairSemaphore(2)
    await semaphore.acquire("a")
    await semaphore.acquire("b")
    semaphore.resize(1)
    waiting = [asyncio.create_task(semaphore.acquire("c")) for _ in range(2)]
    semaphore.release("a")
    await settle()
    assert semaphore.held == 1 and semaphore.waiting == 2
    semaphore.resize(3)
    await asyncio.wait_for(asyncio.gather(*waiting), 1)
    assert semaphore.held == 3


async def test_release_with_many_waiting_grants_in_groups() -> None:
    semaphore, waiting = await semaphore_with_two_per_group(waiting=3)
    semaphore.release("a")
    await settle()
    assert semaphore.held == 2 * GROUPS - 1 and semaphore.waiting == 3
    semaphore.release("a")
    await settle()
    assert semaphore.held == 2 * GROUPS and semaphore.waiting == 1
    semaphore.release("a")  # a request waits, a permit is free
    await asyncio.wait_for(asyncio.gather(*waiting), 1)


async def test_acquire_when_cancelled_leaves_free_permits_to_others() -> None:
    semaphore, waiting = await semaphore_with_two_per_group(waiting=2)
    semaphore.release("a")
    await settle()
    assert semaphore.waiting == 2
    waiting[0].cancel()
    await asyncio.wait_for(waiting[1], 1)
    assert semaphore.held == 2 * GROUPS


async def test_acquire_when_cancelled_takes_no_permit() -> None:
    semaphore = FairSemaphore(1)
    await semaphore.acquire("a")
    waiting = [asyncio.create_task(semaphore.acquire("b")) for _ in range(3)]
    await settle()
    waiting[0].cancel()
    semaphore.release("a")  # in the same moment: the cancelled request must not get it
    waiting[1].cancel()  # granted, and cancelled before it knew
    await settle()
    assert waiting[2].done() and not waiting[2].cancelled()
    semaphore.release("b")
    await asyncio.wait_for(semaphore.acquire("c"), 1)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(
    st.integers(1, 8),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans()), max_size=30),
)
def test_semaphore_conserves_permits(count: int, requests: list[tuple[str, int, bool]]) -> None:
    async def run() -> None:
        semaphore, held = FairSemaphore(count), Counter[str]()

        async def use(client: str, rounds: int) -> None:
            await semaphore.acquire(client)
            held[client] += 1
            assert held.total() <= count
            try:
                for _ in range(rounds):
                    await asyncio.sleep(0)
            finally:
                held[client] -= 1
                semaphore.release(client)

        tasks = []
        for client, rounds, gives_up in requests:
            tasks.append(asyncio.create_task(use(client, rounds)))
            await asyncio.sleep(0)
            if gives_up:
                tasks[-rounds - 1 if rounds < len(tasks) else -1].cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert not semaphore.waiting and not +held
        for _ in range(count):
            await asyncio.wait_for(semaphore.acquire("z"), 1)

    asyncio.run(run())
