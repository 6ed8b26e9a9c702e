from __future__ import annotations

import os
import threading

import pytest

from benchmarks.peers.costs import on_cores, split_cores
from benchmarks.serving.stack import cpu_seconds


def test_cpu_seconds_count_computing_and_not_waiting() -> None:
    before = cpu_seconds(os.getpid())
    threading.Event().wait(0.3)
    waited = cpu_seconds(os.getpid()) - before
    while cpu_seconds(os.getpid()) - before < waited + 0.1:
        sum(range(100_000))
    assert waited < 0.1


@pytest.mark.parametrize(
    ("available", "serving", "generator"),
    [([0], {0}, {0}), ([4, 7], {4, 7}, {4, 7}), ([1, 2, 3, 5], {1, 2}, {3, 5})],
)
def test_cores_are_split_if_there_are_more_than_two(
    available: list[int], serving: set[int], generator: set[int]
) -> None:
    assert split_cores(available) == (serving, generator)


def test_cores_are_restricted_within_the_block_alone() -> None:
    before = os.sched_getaffinity(0)
    one = {min(before)}
    with pytest.raises(KeyError), on_cores(one):
        assert os.sched_getaffinity(0) == one
        raise KeyError
    assert os.sched_getaffinity(0) == before
