"""Arrivals at a cluster: sessions about an image each, whose requests follow by think time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.capacity.gateway import Arrival
from cpcsam.errors import ConfigError

__all__ = ["Sessions"]


@dataclass(frozen=True)
class Sessions:
    """Sessions begin as a Poisson process; each brings an image and asks about it several times.

    Attributes:
        rate: mean requests a second.
        clicks: mean requests of a session, the first included; geometric.
        think_s: mean seconds between the requests of a session; exponential.

    Raises:
        ConfigError: a session has less than one request.
    """

    rate: float
    clicks: float = 5.0
    think_s: float = 4.0

    def __post_init__(self) -> None:
        """Validate the number of requests."""
        if self.clicks < 1:
            raise ConfigError.of(
                "clicks", got=self.clicks, expected="at least 1", fix="count the first request"
            )

    def arrivals(self, seconds: float, rows: int, seed: int = 0) -> Iterator[Arrival]:
        """Draw the requests of a span from 0 on, and before it those that filled the caches.

        Args:
            seconds: end of the span.
            rows: number of the service times that are drawn from.
            seed: decides everything.

        Returns:
            Requests in the order of their times.
        """
        rng = np.random.default_rng(seed)
        # Most sessions are over after three times their mean length.
        before_s = 3 * self.clicks * self.think_s
        count = rng.poisson((before_s + seconds) * self.rate / self.clicks)
        begins = np.sort(rng.uniform(-before_s, seconds, count))
        clicks = rng.geometric(1 / self.clicks, count)
        images = np.repeat(np.arange(count), clicks)
        is_first = np.concatenate([[True], images[1:] != images[:-1]])[: len(images)]
        pauses = np.where(is_first, 0.0, rng.exponential(self.think_s, len(images)))
        passed = np.cumsum(pauses)
        times = begins[images] + passed - passed[is_first][images]
        order = np.argsort(times, kind="stable")
        order = order[times[order] < seconds]
        drawn = rng.integers(rows, size=len(images))
        columns = (times[order], images[order], drawn[order], ~is_first[order])
        return map(Arrival._make, zip(*(column.tolist() for column in columns), strict=True))
