"""Embedding cache: bounded bytes, LRU eviction, fairness between tenants, single-flight."""

from __future__ import annotations

import asyncio
from mmap import mmap

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpcsam.errors import ContractError
from cpcsam.geometry import Box
from cpcsam.grpc_errors import DeadlineError, NotFoundError
from serving.gateway.inference.embedding_cache import ENTRY_BYTES, EmbeddingCache, ImageKey
from serving.gateway.inference.single_flight import SingleFlight
from serving.gateway.inference.triton_responses import Encoded
from serving.gateway.metrics import Metrics

SIZES = np.array([[4, 4]], np.int32)
UNIT = 1000 + 2 * SIZES.nbytes + ENTRY_BYTES


def encoded(units: int = 1) -> Encoded:
    """An embedding of UNIT bytes times units."""
    count = units * UNIT - 2 * SIZES.nbytes - ENTRY_BYTES
    return Encoded(b"key", np.zeros(count, np.uint8), SIZES, SIZES)


def key(image: str, tenant: str = "a", model: str = "m", tile: Box | None = None) -> ImageKey:
    return ImageKey(tenant, model, image, tile)


class Store:
    """Cache with a counting computation."""

    def __init__(self, units: int) -> None:
        self.metrics = Metrics()
        self.cache = EmbeddingCache(units * UNIT, self.metrics)
        self.made: list[ImageKey] = []

    async def get(self, lookup: ImageKey, units: int = 1) -> Encoded:
        async def make() -> Encoded:
            self.made.append(lookup)
            await asyncio.sleep(0)
            return encoded(units)

        return await self.cache.get(lookup, make)

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


async def test_get_of_a_cached_key_hits_and_counts_lookups() -> None:
    store = Store(4)
    first = await store.get(key("x"))
    assert await store.get(key("x")) is first
    both = await asyncio.gather(store.get(key("y")), store.get(key("y")))
    assert both[0] is both[1]
    assert store.made == [key("x"), key("y")]
    assert isinstance(first.image_embeddings.base, mmap), "of its own pages"
    assert np.array_equal(first.image_embeddings, encoded().image_embeddings)
    assert store.value("cpcsam_cache_lookups_total", outcome="hit") == 1
    assert store.value("cpcsam_cache_lookups_total", outcome="miss") == 2
    assert store.value("cpcsam_cache_lookups_total", outcome="joined") == 1
    assert store.value("cpcsam_cache_bytes") == 2 * UNIT
    assert store.value("cpcsam_cache_evictions_total") == 0


async def test_get_with_another_tenant_model_or_tile_misses() -> None:
    store = Store(9)
    keys = [key("x"), key("x", "b"), key("x", model="n"), key("x", tile=Box(0, 0, 2, 2))]
    for wanted in keys:
        await store.get(wanted)
    assert store.made == keys and all(wanted in store.cache for wanted in keys)


async def test_eviction_takes_the_least_recently_used() -> None:
    store = Store(3)
    for name in ("x", "y", "z", "x", "w"):
        await store.get(key(name))
    assert [name for name in "xyzw" if key(name) in store.cache] == ["x", "z", "w"]
    assert store.value("cpcsam_cache_evictions_total") == 1
    assert store.value("cpcsam_cache_bytes") == 3 * UNIT


async def test_eviction_takes_from_the_tenant_with_the_most_bytes() -> None:
    store = Store(4)
    await store.get(key("mine", "small"))
    for name in "pqrstu":
        await store.get(key(name, "large"))
    assert key("mine", "small") in store.cache
    assert [name for name in "pqrstu" if key(name, "large") in store.cache] == ["s", "t", "u"]


@pytest.mark.parametrize("units", [0, 2])
async def test_get_of_an_oversized_embedding_returns_without_caching(units: int) -> None:
    store = Store(units)
    assert (await store.get(key("x"), units=3)).nbytes == 3 * UNIT - ENTRY_BYTES
    assert key("x") not in store.cache and not store.value("cpcsam_cache_bytes")


async def test_get_after_a_failure_computes_again() -> None:
    store = Store(2)

    async def fail() -> Encoded:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        await store.cache.get(key("x"), fail)
    assert key("x") not in store.cache
    await store.get(key("x"))
    assert key("x") in store.cache


lookup = st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.integers(1, 5))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(st.lists(lookup, max_size=40))
def test_cache_stays_within_its_bytes_and_reports_them(
    lookups: list[tuple[str, int, int]],
) -> None:
    async def run() -> None:
        store = Store(7)
        sizes = {}
        for tenant, image, units in lookups:
            wanted = key(str(image), tenant)
            if wanted not in store.cache:
                sizes[wanted] = units * UNIT
            await store.get(wanted, units)
            assert wanted in store.cache
            held = sum(size for kept, size in sizes.items() if kept in store.cache)
            assert held == store.value("cpcsam_cache_bytes") <= 7 * UNIT

    asyncio.run(run())


class Computation:
    """Counts its starts; ends when `gate` opens."""

    def __init__(self, *outcomes: int | Exception) -> None:
        self.outcomes = list(outcomes)
        self.begun = self.broken_off = 0
        self.gate = asyncio.Event()

    async def __call__(self) -> int:
        self.begun += 1
        outcome = self.outcomes.pop(0)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.broken_off += 1
            raise
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_run_of_concurrent_requests_shares_one_computation() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    compute = Computation(1, 2)
    callers = [asyncio.create_task(flights.run("a", compute)) for _ in range(5)]
    await settle()
    assert flights.is_running("a") and not flights.is_running("b")
    compute.gate.set()
    assert await asyncio.gather(*callers) == [1] * 5
    assert compute.begun == 1 and not flights.is_running("a")
    assert await flights.run("a", compute) == 2


async def test_run_with_different_keys_computes_each() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    first, second = Computation(1), Computation(2)
    callers = [
        asyncio.create_task(flights.run("a", first)),
        asyncio.create_task(flights.run("b", second)),
    ]
    await settle()
    first.gate.set()
    second.gate.set()
    assert await asyncio.gather(*callers) == [1, 2]


async def test_run_is_cancelled_only_with_the_last_request() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    compute = Computation(1, 2)
    first, second = (asyncio.create_task(flights.run("a", compute)) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    assert first.cancelled() and compute.broken_off == 0
    second.cancel()
    await settle()
    assert compute.broken_off == 1 and not flights.is_running("a")
    compute.gate.set()
    assert await flights.run("a", compute) == 2


async def test_run_with_an_error_raises_it_in_every_request() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    compute = Computation(ContractError("bad"), 1)
    callers = [asyncio.create_task(flights.run("a", compute)) for _ in range(3)]
    await settle()
    compute.gate.set()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ContractError] * 3
    assert compute.begun == 1


async def test_run_after_the_starters_deadline_is_started_again_by_another() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    compute = Computation(DeadlineError("late"), 1)
    callers = [asyncio.create_task(flights.run("a", compute)) for _ in range(4)]
    await settle()
    compute.gate.set()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert type(outcomes[0]) is DeadlineError and outcomes[1:] == [1, 1, 1]
    assert compute.begun == 2


async def test_run_when_every_request_is_late_ends() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    compute = Computation(*[DeadlineError("late")] * 3)
    compute.gate.set()
    callers = [asyncio.create_task(flights.run("a", compute)) for _ in range(3)]
    outcomes = await asyncio.wait_for(asyncio.gather(*callers, return_exceptions=True), 5)
    assert [type(outcome) for outcome in outcomes] == [DeadlineError] * 3


async def test_run_with_an_abandoned_failure_logs_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    compute = Computation(ContractError("bad"))
    principal = asyncio.create_task(flights.run("a", compute))
    await settle()
    compute.gate.set()
    principal.cancel()
    await settle()
    assert principal.cancelled() and not caplog.records


async def test_run_with_a_computation_cancelled_inside_is_started_again() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    inner = asyncio.create_task(asyncio.sleep(60))
    outcomes = [inner, 7]

    async def compute() -> int:
        outcome = outcomes.pop(0)
        if isinstance(outcome, int):
            return outcome
        await outcome
        return 0

    first, second = (asyncio.create_task(flights.run("a", compute)) for _ in range(2))
    await settle()
    inner.cancel()
    assert await second == 7
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_request_that_comes_as_a_computation_fails_starts_its_own() -> None:
    """The loop would stand still if it joined the failed computation again and again."""
    flights: SingleFlight[str, str] = SingleFlight()
    made = 0

    async def make() -> str:
        nonlocal made
        made += 1
        raise NotFoundError("unknown")

    first = asyncio.create_task(flights.run("x", make))
    await asyncio.sleep(0)
    second = asyncio.create_task(flights.run("x", make))
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [NotFoundError] * 2 and made == 2
