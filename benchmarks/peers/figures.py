"""Figures of samples: percentiles, throughput, and ratios to SamPredictor in the same round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.peers.load.drive import Sample
from reporting.tables import Cell, mean_cell

__all__ = ["costs_of", "figures_of", "mean_seconds", "ratios", "samples_of", "throughput"]


def samples_of(result: Mapping[str, Any]) -> list[Sample]:
    """Read the samples of a cell's result."""
    return [Sample(*values) for values in result["samples"]]


def throughput(samples: Sequence[Sample]) -> float:
    """Successful answers a second, from the first request to the last answer."""
    begun = min(sample.at_s for sample in samples)
    ended = max(sample.at_s + sample.seconds for sample in samples)
    return sum(sample.status == "OK" for sample in samples) / (ended - begun)


def mean_seconds(samples: Sequence[Sample]) -> float:
    """Mean time of the successful answers; NaN if there are none."""
    seconds = [sample.seconds for sample in samples if sample.status == "OK"]
    return fmean(seconds) if seconds else float("nan")


def figures_of(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Figures of a workload's results, one a round.

    Returns:
        `p50_ms`, `p95_ms` and `p99_ms` over the answers of all rounds, the means over the rounds of
        `throughput` and `cpu_s` a request, the largest `pss_gib`, and `failed` requests.
    """
    rounds = [samples_of(result) for result in results]
    samples = [sample for part in rounds for sample in part]
    seconds = [sample.seconds for sample in samples if sample.status == "OK"]
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99]) if seconds else [float("nan")] * 3
    return {
        "p50_ms": 1000 * float(p50),
        "p95_ms": 1000 * float(p95),
        "p99_ms": 1000 * float(p99),
        "throughput": fmean(map(throughput, rounds)),
        "cpu_s": fmean(costs_of(result)[1] for result in results),
        "pss_gib": max(result["pss_peak_bytes"] for result in results) / 2**30,
        "failed": sum(sample.status != "OK" for sample in samples),
    }


def costs_of(result: Mapping[str, Any]) -> tuple[float, float]:
    """Median seconds and CPU seconds a request, of a result with at least one answer."""
    samples = samples_of(result)
    seconds = [sample.seconds for sample in samples if sample.status == "OK"]
    median = float(np.median(seconds)) if seconds else float("nan")
    return median, result["cpu_s"] / len(samples)


def ratios(
    results: Sequence[Mapping[str, Any]], official: Sequence[Mapping[str, Any]]
) -> tuple[Cell, Cell]:
    """Ratios of a system's median time and CPU time to official SAM's in the same round.

    Args:
        results: one a round.
        official: of the same workload and rounds, in the same order.

    Returns:
        Mean and deviation over the rounds of both.
    """
    pairs = [
        [mine / theirs for mine, theirs in zip(costs_of(a), costs_of(b), strict=True)]
        for a, b in zip(results, official, strict=True)
    ]
    time, cpu = zip(*pairs, strict=True)
    return mean_cell(time, decimals=2), mean_cell(cpu, decimals=2)
