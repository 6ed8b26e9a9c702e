from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from benchmarks.peers.costs import on_cores, pss_bytes, pss_peak, split_cores
from benchmarks.serving.stack import cpu_seconds

GONE = 2**22 + 1
"""Above the largest id of a process on Linux."""


def test_pss_grows_by_the_memory_that_is_touched_and_ended_processes_have_none() -> None:
    before = pss_bytes([os.getpid(), GONE])
    held = np.ones(50_000_000, np.uint8)
    assert pss_bytes([os.getpid()]) - before == pytest.approx(held.nbytes, rel=0.2)
    assert pss_bytes([GONE]) == 0


def test_peak_keeps_what_was_freed_within_the_block() -> None:
    with pss_peak(os.getpid()) as peak:
        before = peak()
        held = np.ones(80_000_000, np.uint8)
        for _ in range(200):
            if peak() < before + held.nbytes // 2:
                threading.Event().wait(0.05)
        del held
        threading.Event().wait(0.6)
        assert peak() > before + 40_000_000


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
