"""Simulated stations agree with the closed forms of queueing theory."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest
import simpy
from scipy import stats

from benchmarks.capacity.stations import Processor, StageTimes, Station
from cpcsam.errors import ConfigError

BATCHES = 20
"""Parts of a run whose means are nearly independent (batch means)."""
PER_BATCH = 500
RATE = 0.7
"""Arrivals a second, at a mean service time of a second a server."""


def exponential(rng: np.random.Generator) -> float:
    return float(rng.exponential())


def constant(rng: np.random.Generator) -> float:
    return 1.0


def sojourns(
    stage: StageTimes, cores: float, rate: float, service: Callable[[np.random.Generator], float]
) -> tuple[list[float], Station]:
    """Seconds that each of Poisson arrivals spends at a station, and the station."""
    env, rng = simpy.Environment(), np.random.default_rng(5)
    station = Station(env, stage, Processor(env, cores))
    spent: list[float] = []

    def visit(seconds: float) -> Generator[simpy.Event, Any, None]:
        began = env.now
        yield station.run(seconds)
        spent.append(env.now - began)

    def arrive() -> Generator[simpy.Event, Any, None]:
        for _ in range(BATCHES * PER_BATCH):
            yield env.timeout(rng.exponential(1 / rate))
            env.process(visit(service(rng)))

    env.process(arrive())
    env.run()
    return spent, station


def erlang_c(servers: int, load: float) -> float:
    """Probability that an arrival at M/M/c waits."""
    terms = [load**n / math.factorial(n) for n in range(servers)]
    full = load**servers / math.factorial(servers) * servers / (servers - load)
    return full / (sum(terms) + full)


@pytest.mark.parametrize(
    "stage, cores, rate, service, expected",
    [
        pytest.param(StageTimes(), math.inf, RATE, exponential, 1 / (1 - RATE), id="M/M/1"),
        pytest.param(
            StageTimes(instances=3),
            math.inf,
            3 * RATE,
            exponential,
            1 + erlang_c(3, 3 * RATE) / (3 - 3 * RATE),
            id="M/M/3, Erlang C",
        ),
        pytest.param(
            StageTimes(), math.inf, RATE, constant, 1 + RATE / (2 * (1 - RATE)), id="M/D/1"
        ),
        # Processor sharing depends on the mean of the service time alone.
        pytest.param(StageTimes(instances=0), 1.0, RATE, constant, 1 / (1 - RATE), id="M/D/1-PS"),
        # Of two cores, a job uses one: M/M/2.
        pytest.param(
            StageTimes(instances=0),
            2.0,
            2 * RATE,
            exponential,
            1 + erlang_c(2, 2 * RATE) / (2 - 2 * RATE),
            id="M/M/2 by sharing two cores",
        ),
    ],
)
def test_mean_sojourn_equals_the_closed_form(
    stage: StageTimes,
    cores: float,
    rate: float,
    service: Callable[[np.random.Generator], float],
    expected: float,
) -> None:
    spent, station = sojourns(stage, cores, rate, service)
    means = np.mean(np.reshape(spent, (BATCHES, PER_BATCH)), axis=1)
    half = stats.t.ppf(0.995, BATCHES - 1) * stats.sem(means)
    assert abs(np.mean(means) - expected) < half < 0.25 * expected
    assert station.calls == len(spent) == BATCHES * PER_BATCH


def test_batches_fill_up_while_the_instance_is_busy() -> None:
    env = simpy.Environment()
    processor = Processor(env, 1.0)
    station = Station(env, StageTimes(max_batch=4, factors={1: 1.0, 4: 2.0}), processor)
    ends: list[float] = []

    def visit() -> Generator[simpy.Event, Any, None]:
        yield station.run(1.0)
        ends.append(env.now)

    for _ in range(6):
        env.process(visit())
    env.run()
    # The first call alone, then four in twice the time, then the last one.
    assert ends == [1.0, 3.0, 3.0, 3.0, 3.0, 4.0]
    assert (station.calls, station.batches, processor.busy_s) == (6, 3, 4.0)


def test_a_full_batch_does_not_wait_for_its_delay() -> None:
    env = simpy.Environment()
    station = Station(env, StageTimes(max_batch=2, delay_s=0.5), Processor(env))
    ends: list[float] = []

    def visit(at: float) -> Generator[simpy.Event, Any, None]:
        yield env.timeout(at)
        yield station.run(1.0)
        ends.append(env.now)

    for at in (0.0, 0.1, 5.0):
        env.process(visit(at))
    env.run()
    assert ends == pytest.approx([2.1, 2.1, 6.5])


def test_a_stage_without_instances_of_a_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_batch: got 0"):
        StageTimes(max_batch=0)
    with pytest.raises(ConfigError, match="largest batch of factors: got 2"):
        StageTimes(max_batch=4, factors={1: 1.0, 2: 1.5})


def test_capacity_follows_the_requests_in_flight() -> None:
    env, in_flight = simpy.Environment(), 1.0
    processor = Processor(env, {1: 1.0, 3: 2.0}, lambda: in_flight)
    ends: dict[float, float] = {}

    def run(seconds: float) -> None:
        processor.run(seconds, 2.0, lambda: ends.update({seconds: env.now}))

    run(1.0)  # 2 cores' work on one
    env.run()
    in_flight = 2.0  # half way to 2 cores
    run(3.0)
    env.run()
    in_flight = 5.0
    run(4.0)
    env.run()
    assert ends == pytest.approx({1.0: 2.0, 3.0: 6.0, 4.0: 10.0})
