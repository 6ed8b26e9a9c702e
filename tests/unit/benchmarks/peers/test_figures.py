from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import pytest

from benchmarks.peers.agreement import agreement, require_agreement
from benchmarks.peers.costs import on_cores, split_cores
from benchmarks.peers.figures import figures_of, mean_seconds, ratios, samples_of, throughput
from benchmarks.peers.load.workloads import EVERYTHING, Workload
from benchmarks.peers.phases import phase_seconds
from benchmarks.peers.second_load import read_stats
from benchmarks.serving.stack import cpu_seconds
from cpcsam.automatic.rle import rle_from_mask
from cpcsam.errors import ServingError


def result(*seconds: float, cpu_s: float = 1.0, failed: int = 0) -> dict[str, Any]:
    """A cell's result: requests one after the other, then failed ones that take no time."""
    starts = np.cumsum([0.0, *seconds])
    samples = [[at, taken, "OK"] for at, taken in zip(starts, seconds, strict=False)]
    samples += [[starts[-1], 0.0, "UNAVAILABLE"]] * failed
    return {"samples": samples, "cpu_s": cpu_s, "pss_peak_bytes": 2**30}


def test_figures_take_latencies_of_answers_alone() -> None:
    figures = figures_of([result(1.0, 3.0, cpu_s=2.0, failed=2), result(2.0, 2.0, cpu_s=8.0)])
    assert (figures["p50_ms"], figures["failed"], figures["pss_gib"]) == (2000, 2, 1)
    assert figures["p99_ms"] == pytest.approx(2970)
    assert figures["throughput"] == pytest.approx(0.5)
    # 2 s over 4 requests, and 8 s over 2.
    assert figures["cpu_s"] == pytest.approx((0.5 + 4) / 2)


def test_figures_without_an_answer_are_no_numbers() -> None:
    figures = figures_of([{**result(), "samples": [[0.0, 1.0, "UNAVAILABLE"]]}])
    assert np.isnan(figures["p50_ms"]) and figures["throughput"] == 0
    assert np.isnan(mean_seconds(samples_of(result(failed=1))))


def test_throughput_counts_from_the_first_request_to_the_last_answer() -> None:
    assert throughput(samples_of(result(1.0, 1.0, 2.0))) == pytest.approx(3 / 4)
    assert mean_seconds(samples_of(result(1.0, 1.0, 2.0))) == pytest.approx(4 / 3)


def test_ratios_are_of_the_same_round_with_their_spread() -> None:
    mine = [result(2.0, cpu_s=1.0), result(9.0, cpu_s=1.0)]
    official = [result(1.0, cpu_s=2.0), result(3.0, cpu_s=4.0)]
    time, cpu = ratios(mine, official)
    assert (time.mean, time.std) == (pytest.approx(2.5), pytest.approx(np.std([2, 3], ddof=1)))
    assert (cpu.mean, cpu.seeds) == (pytest.approx(0.375), 2)
    with pytest.raises(ValueError, match="zip"):
        ratios(mine, official[:1])


def test_phases_are_means_over_the_requests_between_two_snapshots() -> None:
    before = {"queue": 1.0, "idle": 2.0, "requests": 10.0}
    after = {"queue": 3.0, "idle": 2.0, "requests": 14.0}
    assert phase_seconds(before, after) == {"queue": 0.5}


def test_stats_of_locust_are_those_of_all_requests() -> None:
    rows = [
        {"Name": "Segment", "Requests/s": "1", "Average Response Time": "9", "Failure Count": "7"},
        {
            "Name": "Aggregated",
            "Requests/s": "4.5",
            "Average Response Time": "250.5",
            "Failure Count": "2",
        },
    ]
    assert read_stats(rows) == {"throughput": 4.5, "mean_s": 0.2505, "failures": 2}


CLICKS = Workload("clicks", count=1, side=8)
GRID = Workload("grid", EVERYTHING, side=8)


def counts(rows: int) -> str:
    mask = np.zeros((8, 8), bool)
    mask[:rows] = True
    return rle_from_mask(mask).decode()


def compare(workload: Workload, expected: list[str], found: list[str]) -> dict[str, Any]:
    name = workload.name
    return agreement([workload], {name: [expected]}, {name: [found]})[name]


def test_agreement_compares_prompts_in_their_order_and_grids_with_the_nearest() -> None:
    expected, found = [counts(2), counts(4)], [counts(4), counts(2)]
    assert compare(CLICKS, expected, expected)["min_iou"] == 1
    assert compare(CLICKS, expected, found)["mean_iou"] == pytest.approx(0.5)
    assert compare(GRID, expected, found)["min_iou"] == 1
    assert compare(CLICKS, [counts(0)], [counts(0)])["mean_iou"] == 1


def test_agreement_counts_missing_and_superfluous_masks() -> None:
    assert compare(CLICKS, [counts(2), counts(4)], [counts(2)])["mean_iou"] == 0
    # The superfluous mask's nearest has half of its pixels.
    extra = compare(GRID, [counts(2)], [counts(2), counts(4)])
    assert (extra["masks"], extra["found"], extra["min_iou"]) == (1, 2, pytest.approx(0.5))
    assert compare(GRID, [], [])["mean_iou"] == 1
    assert compare(GRID, [counts(2)], [])["mean_iou"] == 0


@pytest.mark.parametrize("iou", [0.9899, float("nan")])
def test_disagreement_stops_the_run(iou: float) -> None:
    require_agreement("gateway", {"clicks": {"mean_iou": 0.99}})
    with pytest.raises(ServingError, match=r"masks of gateway, clicks: got a mean IoU of .* 0\.99"):
        require_agreement("gateway", {"clicks": {"mean_iou": iou}})


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
