"""Compare what the simulation predicts with what was measured in the same rounds."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, Final

import numpy as np

from benchmarks.capacity.batch_times import linear_factors
from benchmarks.capacity.cluster import Cluster, ClusterSize
from benchmarks.capacity.gateway import Arrival
from benchmarks.capacity.measure import FOLLOW_UPS
from benchmarks.capacity.rounds import LOADS, Measured, Round, answers_a_second
from benchmarks.capacity.service_times import GATEWAY, TRANSPORT, ServiceTimes
from benchmarks.capacity.stations import StageTimes
from benchmarks.serving.report import Check, at_most

__all__ = ["MACHINE", "checks_of", "compare", "times_of"]

MACHINE: Final = "machine"
"""The processor that all steps, the gateway and the clients share."""
Figures = dict[str, float]
Answers = list[tuple[float, float]]
DISTURBED: Final = 2.0
"""Multiple of a median beyond which a time tells of a disturbance."""
ERROR: Final = 0.2
"""Largest relative error of a prediction."""


def times_of(measured: Measured, rounds: list[Round], source: str) -> ServiceTimes:
    """Make the service times of rounds.

    The processor's capacity is what the steps alone would take of all answers a second that
    the service gave to repeating clients, for each number of them. So it is below the number of
    cores where steps together are slower than alone, or other programs run.

    Args:
        measured: of which the rounds are part.
        rounds: some or all of them.
        source: of the service times.
    """
    stages = {GATEWAY: StageTimes(), TRANSPORT: StageTimes(instances=0), **measured.stages}
    cores = {
        name: _mean(
            value
            for one in rounds
            for key, value in one.cores.items()
            if key.partition("/")[2] == name
        )
        for name in stages
    }
    new = _typical([one.new for one in rounds])
    follow_up = _typical([one.follow_up for one in rounds])
    stages |= {
        name: replace(stage, factors=_factors(rounds, name, follow_up, stage.max_batch))
        for name, stage in stages.items()
        if stage.max_batch > 1
    }
    work = [
        _mean(sum(seconds * cores[name] for name, seconds in row.items()) for row in rows)
        for rows in (new, follow_up)
    ]
    mean_work = (1 - FOLLOW_UPS) * work[0] + FOLLOW_UPS * work[1]
    capacity = {
        load.clients: mean_work
        * _mean(
            answers_a_second(one.loads[load.name]["answers"], one.loads[load.name]["seconds"])
            for one in rounds
        )
        for load in sorted(LOADS, key=lambda load: load.clients)
        if load.clients
    }
    return ServiceTimes(
        source,
        {MACHINE: capacity},
        {
            name: replace(stage, processor=MACHINE, cores=cores[name])
            for name, stage in stages.items()
        },
        new,
        follow_up,
        measured.embedding_bytes,
    )


def compare(measured: Measured) -> dict[str, dict[str, Figures]]:
    """Return what was measured and what is simulated, by load, all rounds together.

    Requests come in the measured order, and those of Poisson arrivals in the measured moments. Each
    takes what its task took alone in a round drawn at random: what disturbed a task once must not
    disturb it whenever it is simulated.
    """
    figures: dict[str, dict[str, Figures]] = {}
    times = times_of(measured, measured.rounds, "")
    for load in LOADS:
        found = [one.loads[load.name] for one in measured.rounds]
        simulated = [
            _simulate(times, len(measured.prompts), load.clients, one.loads[load.name], number)
            for number, one in enumerate(measured.rounds)
        ]
        seconds = found[0]["seconds"]
        figures[load.name] = {
            "measured": _figures([one["answers"] for one in found], seconds),
            "simulated": _figures(simulated, seconds),
        }
    return figures


def checks_of(figures: Mapping[str, Mapping[str, Figures]]) -> list[Check]:
    """Bound the relative errors of throughput and p99 of each load."""
    return [
        at_most(
            f"{name}: relative error of {title}",
            abs(pair["simulated"][key] / pair["measured"][key] - 1),
            ERROR,
        )
        for name, pair in figures.items()
        for title, key in (("throughput", "answers_a_second"), ("p99", "p99_s"))
    ]


def _typical(rounds: Sequence[Sequence[dict[str, float]]]) -> list[dict[str, float]]:
    """Bound the seconds of each task and step by twice their median over the rounds.

    More is a disturbance of the machine. It happens by the hour and not by the request, so that it
    must not come again with each simulated request that takes the time of that row.

    Returns:
        Rows of all tasks in one round after the other.
    """
    bounds = [
        {step: DISTURBED * float(np.median([row[step] for row in rows])) for step in rows[0]}
        for rows in zip(*rounds, strict=True)
    ]
    return [
        {step: min(seconds, bound[step]) for step, seconds in row.items()}
        for one in rounds
        for row, bound in zip(one, bounds, strict=True)
    ]


def _factors(
    rounds: Sequence[Round], step: str, rows: Sequence[Mapping[str, float]], max_batch: int
) -> dict[int, float]:
    """Fit the time of a step's batches over that of their calls in the same rounds."""
    tasks = len(rows) // len(rounds)
    shifted = [
        batch._replace(tasks=[task + number * tasks for task in batch.tasks])
        for number, one in enumerate(rounds)
        for batch in one.batches
        if batch.step == step
    ]
    return linear_factors(shifted, rows, max_batch)


def _simulate(
    times: ServiceTimes, tasks: int, clients: int, load: Mapping[str, Any], seed: int
) -> Answers:
    """Simulate a load of one round; return arrival and latency of each answer.

    Args:
        times: of all tasks in one round after the other.
        tasks: number of them.
        clients: as `Load.clients`.
        load: as in `Round.loads`.
        seed: decides in which round's time a request is done.
    """
    cluster = Cluster(times, ClusterSize(is_shared=True))
    gateway = cluster.gateways[0]
    for image in range(tasks):
        gateway.cached.add(image)
    gateway.begin()
    chance = random.Random(seed)
    arrivals = [
        # Follow-ups are about the image of their task; all other images are new.
        Arrival(
            at,
            task if is_known else tasks + number,
            task + chance.randrange(len(times.new) // tasks) * tasks,
            bool(is_known),
        )
        for number, (at, _, task, is_known) in enumerate(sorted(load["answers"]))
    ]
    if clients:
        left = iter(arrivals)
        numbers = count(tasks + len(arrivals))

        def draw() -> Arrival:
            drawn = next(left, None)
            if drawn is None:  # the simulated service was faster
                drawn = chance.choice(arrivals)
                if not drawn.is_follow_up:
                    drawn = drawn._replace(image=next(numbers))
            return drawn

        cluster.repeat(clients, draw, load["seconds"])
    else:
        cluster.follow(arrivals)
    return [(one.at, one.seconds) for one in cluster.outcomes if one.is_answered]


def _figures(rounds: Sequence[Sequence[Sequence[float]]], seconds: float) -> Figures:
    """Summarise answers, each of which begins with its arrival and latency."""
    latencies = [latency for answers in rounds for _, latency, *_ in answers]
    p50, p95, p99 = (float(value) for value in np.percentile(latencies, (50, 95, 99)))
    return {
        "answers_a_second": _mean(answers_a_second(answers, seconds) for answers in rounds),
        "answers": len(latencies),
        "p50_s": p50,
        "p95_s": p95,
        "p99_s": p99,
    }


def _mean(values: Iterable[float]) -> float:
    return float(np.mean([*values]))
