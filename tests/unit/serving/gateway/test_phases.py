"""Time of a request by phase: parts side by side, and calls to Triton on both targets."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest

from serving.gateway.inference.step_times import call_phases
from serving.gateway.phases import RequestPhases

CPU = {"preprocess": [1.0, 3.0], "image_encoder": [4.0, 8.0], "decoder": [9.0, 10.0, 10.5]}
GPU = {"preprocess": [1.0, 3.0], "embedding_store": [8.0, 8.1], "postprocess": [10.0, 10.5]}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_phases_of_parts_side_by_side_add_up_to_the_time_that_passed() -> None:
    clock = Clock()
    phases = RequestPhases(clock)
    clock.now = 1.0
    with phases.measure("queue") as first:
        clock.now = 3.0  # alone
        first.count({"queue": 1})
        with phases.measure("queue") as second:
            clock.now = 7.0  # two
            second.count({"encode": 3, "queue": 1})
        clock.now = 8.0
        first.count({"decode": 1})
    clock.now = 10.0
    assert phases.by_phase(10.0) == pytest.approx(
        {"queue": 2.5, "encode": 1.5, "decode": 3.0, "other": 3.0}
    )


def test_phases_of_a_failed_part_are_counted() -> None:
    clock = Clock()
    phases = RequestPhases(clock)
    with pytest.raises(ValueError, match="boom"), phases.measure("queue"):
        clock.now = 2.0
        raise ValueError("boom")
    with phases.measure("decode"):
        clock.now = 3.0
    assert phases.by_phase(3.0) == {"queue": 2.0, "decode": 1.0, "other": 0.0}


@pytest.mark.parametrize(
    ("model", "steps", "expected"),
    [
        (
            "segment",
            CPU,
            {"decode": 2, "encode": 4, "decode_masks": 1, "postprocess": 0.5, "queue": 12.5},
        ),
        (
            "segment",
            GPU,
            {"decode": 2, "encode": 5, "decode_masks": 2, "postprocess": 0.5, "queue": 10.5},
        ),
        ("decode", {"decoder": CPU["decoder"]}, {"decode_masks": 1, "postprocess": 0.5}),
        (
            "decode",
            {"embedding_store": [9.0, 9.1], "postprocess": [10.0, 10.5]},
            {"decode_masks": 1, "postprocess": 0.5},
        ),
        ("encode", dict(itertools.islice(CPU.items(), 2)), {"decode": 2, "encode": 4}),
        ("encode", {"preprocess": GPU["preprocess"]}, {"decode": 2, "encode": 18}),
        ("image_encoder", {"image_encoder": [4.0, 8.0]}, {"encode": 4}),
        ("image_encoder", {}, {"encode": 20}),
        ("segment", {}, {"triton": 20}),
    ],
)
def test_call_phases_divides_the_whole_call(
    model: str, steps: Mapping[str, list[float]], expected: dict[str, float]
) -> None:
    spent = call_phases(model, steps, 20.0)
    assert sum(spent.values()) == pytest.approx(20.0)
    rest = 20.0 - sum(expected.values())
    assert spent == pytest.approx(({"queue": rest} if rest > 0 else {}) | expected)
