"""Slots are never more than there are, never lost, and shared evenly."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.fair_slots import FairSlots


async def settle() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


async def test_a_newcomer_gets_the_next_slot_however_many_another_asked_for() -> None:
    slots, order = FairSlots(2), []

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


async def test_who_holds_equally_many_take_turns() -> None:
    slots, order = FairSlots(1), []
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


async def test_who_gives_up_while_waiting_takes_nothing() -> None:
    slots = FairSlots(1)
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
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans()), max_size=30),
)
def test_slots_are_conserved(count: int, asked: list[tuple[str, int, bool]]) -> None:
    async def run() -> None:
        slots, held = FairSlots(count), Counter[str]()

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
