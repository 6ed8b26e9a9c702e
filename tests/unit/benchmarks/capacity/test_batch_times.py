"""Service times of batches, and of tasks that the machine disturbed."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.capacity.batch_times import Batch, linear_factors
from benchmarks.capacity.rounds import Measured, Round
from benchmarks.capacity.stations import StageTimes
from benchmarks.capacity.validate import times_of

ALONE = [{"decoder": seconds} for seconds in (1.0, 2.0, 3.0)]


def test_factors_are_the_line_through_batches_of_known_times() -> None:
    batches = [
        Batch("decoder", size, 2.0 * (1 + 0.75 * (size - 1)), [0, 1, 2]) for size in (1, 2, 5)
    ]
    factors = linear_factors(batches, ALONE, 8)
    assert factors == pytest.approx({size: 0.25 + 0.75 * size for size in range(1, 9)})


def test_factors_are_over_the_times_of_the_same_calls() -> None:
    factors = linear_factors(
        [Batch("decoder", 2, 1.5, [0]), Batch("decoder", 2, 4.5, [2])], ALONE, 2
    )
    assert factors == {1: 1.0, 2: 1.5}


def test_without_batches_calls_take_what_they_take_alone() -> None:
    assert linear_factors([], ALONE, 3) == {1: 1.0, 2: 2.0, 3: 3.0}
    assert linear_factors([Batch("decoder", 4, 0.5, [1])], ALONE, 2)[2] == 1.0


def test_a_disturbed_time_counts_twice_its_median() -> None:
    def measured_round(seconds: float, batch_s: float) -> Round:
        row = {"decoder": seconds, "transport": 0.0, "gateway": 0.0}
        cores = {f"{kind}/{name}": 1.0 for kind in ("new", "follow_up") for name in row}
        batches = [Batch("decoder", 2, batch_s, [0])]
        # All answers ended within the load but one: 4 or 16 clients got 1 or 2 a second.
        loads = {
            f"{4 * 4**number} clients": {
                "seconds": 2.0,
                "answers": [(0.0, 1.0)] * 2 * (1 + number) + [(1.5, 1.0)],
            }
            for number in range(2)
        }
        return Round([row], [dict(row)], cores, batches, loads)

    rounds = [measured_round(*one) for one in ((1.0, 1.5), (1.0, 1.5), (9.0, 3.0))]
    stages: dict[str, Any] = {"decoder": StageTimes(max_batch=2)}
    times = times_of(Measured(rounds, stages, [1], {}, 4), rounds, "here")
    assert [row["decoder"] for row in times.new] == [1.0, 1.0, 2.0]
    assert times.stages["decoder"].factors == {1: 1.0, 2: 1.5}
    assert times.processors["machine"] == pytest.approx({4: 4 / 3, 16: 8 / 3})
