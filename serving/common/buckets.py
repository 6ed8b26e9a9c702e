"""Buckets of the histograms of times."""

from __future__ import annotations

from typing import Final

__all__ = ["BUCKETS_S"]

BUCKETS_S: Final = (
    *(
        0.001,
        0.0015,
        0.002,
        0.003,
        0.005,
        0.0075,
        0.01,
        0.015,
        0.02,
        0.03,
        0.05,
        0.075,
        0.1,
        0.15,
        0.2,
        0.3,
        0.5,
        0.75,
    ),
    *(1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0),
)
"""Upper edges in seconds. The ratio of neighbours is at most 5/3 (2 for the last), which bounds the
error of quantiles."""
