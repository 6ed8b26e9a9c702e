"""Prometheus metrics of the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from serving.supervision.restarts import count_restarts

__all__ = ["BUCKETS_S", "Metrics", "Stopwatch"]

BUCKETS_S: Final = (
    *(0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
    *(1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0),
)
"""Upper edges in seconds. The ratio of neighbours is at most 5/3 (2 for the last), which bounds the
error of quantiles."""
LAG_BUCKETS_S: Final = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)
"""Upper edges in seconds; beyond 0.05 callers notice."""

REASONS: Final = (
    *("invalid", "over_limit", "in_flight", "unauthenticated"),
    *("open_calls", "slow", "unread"),
)


class Stopwatch:
    """Timer that starts when it is made and runs until `stop`."""

    def __init__(self) -> None:
        self._started = perf_counter()
        self._seconds: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds from the start to now, or to `stop`."""
        return perf_counter() - self._started if self._seconds is None else self._seconds

    def stop(self) -> None:
        """Stop the timer."""
        self._seconds = perf_counter() - self._started


class Metrics:
    """Metrics of one gateway, in a registry of their own.

    Attributes:
        registry: collects all of them.
        request_seconds: histogram by `method` and `code` (name of the gRPC status).
        stage_seconds: histogram by `stage`: `validate`, `queue` (wait for the first turn) or
            `triton` (including the queue).
        in_flight: gauge of Segment requests in flight.
        backlog_seconds: gauge of the seconds of Triton that admitted requests still need, by
            `queue`: `encode` or `decode`.
        prompts: counter of the prompts of accepted requests.
        rejected: counter of refused requests by `reason`: `invalid`, `over_limit`, `in_flight`,
            `unauthenticated`, `open_calls` (a caller, an address or all hold too many), `slow` (no
            message in time) or `unread` (connections closed for responses that were not read).
        open_calls: gauge of open calls by `kind`: `api`, `health`, `watch` or `reflection`.
        token_file_refused: gauge, 1 while the token file cannot be used and older tokens apply.
        loop_lag: histogram of the seconds by which the event loop ran late; see `watch_loop`.
        cache_lookups: counter of embedding lookups by `outcome`: `hit`, `miss` or `joined` (another
            request was already computing it).
        cache_bytes: gauge of the embedding cache's size.
        cache_evictions: counter of evicted embeddings.
        replica_up: gauge by `replica`, the address of a Triton: 1 if it passes its probes, else 0.
        replica_success: gauge by `replica`, the Unix time of its last successful call or probe.
        probes: counter of answered probes, each of which Triton counts as an image, too.
        retried_calls: counter of calls made again, on another Triton.

    Args:
        restarts: list of what a supervisor restarted; None without one.
    """

    def __init__(self, restarts: Path | None = None) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_RestartCollector(restarts))
        self.request_seconds = Histogram(
            "cpcsam_request_seconds",
            "Time from a request's arrival to its response.",
            ("method", "code"),
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "cpcsam_stage_seconds",
            "Time of one stage of a Segment request.",
            ("stage",),
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "cpcsam_in_flight_requests", "Segment requests in flight.", registry=self.registry
        )
        self.backlog_seconds = Gauge(
            "cpcsam_backlog_seconds",
            "Seconds of Triton that the admitted requests still need, as measured by kind of call.",
            ("queue",),
            registry=self.registry,
        )
        self.prompts = Counter(
            "cpcsam_prompts", "Prompts of the accepted requests.", registry=self.registry
        )
        self.rejected = Counter(
            "cpcsam_rejected", "Requests refused, by reason.", ("reason",), registry=self.registry
        )
        # Labels exist from the start, so that rates are 0 rather than absent.
        for reason in REASONS:
            self.rejected.labels(reason)
        self.open_calls = Gauge(
            "cpcsam_open_calls", "Open calls, by kind.", ("kind",), registry=self.registry
        )
        self.token_file_refused = Gauge(
            "cpcsam_token_file_refused",
            "1 while the token file cannot be used and older tokens apply.",
            registry=self.registry,
        )
        self.loop_lag = Histogram(
            "cpcsam_loop_lag_seconds",
            "Time by which the event loop ran late.",
            buckets=LAG_BUCKETS_S,
            registry=self.registry,
        )
        self.cache_lookups = Counter(
            "cpcsam_cache_lookups",
            "Embedding lookups, by outcome.",
            ("outcome",),
            registry=self.registry,
        )
        for outcome in ("hit", "miss", "joined"):
            self.cache_lookups.labels(outcome)
        self.cache_bytes = Gauge(
            "cpcsam_cache_bytes", "Size of the embedding cache.", registry=self.registry
        )
        self.cache_evictions = Counter(
            "cpcsam_cache_evictions",
            "Evicted embeddings.",
            registry=self.registry,
        )
        self.replica_up = Gauge(
            "cpcsam_replica_up",
            "Whether a Triton passes its probes.",
            ("replica",),
            registry=self.registry,
        )
        self.replica_success = Gauge(
            "cpcsam_replica_last_success_timestamp_seconds",
            "Time of a Triton's last successful call or probe.",
            ("replica",),
            registry=self.registry,
        )
        self.probes = Counter("cpcsam_probes", "Answered probes.", registry=self.registry)
        self.retried_calls = Counter(
            "cpcsam_retried_calls", "Calls made again, on another Triton.", registry=self.registry
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[Stopwatch]:
        """Observe the duration of a block, whether it succeeds or not."""
        watch = Stopwatch()
        try:
            yield watch
        finally:
            watch.stop()
            self.stage_seconds.labels(name).observe(watch.seconds)


class _RestartCollector(Collector):
    """Counter of restarts by `program` and `cause`, read from the supervisor's list."""

    def __init__(self, restarts: Path | None) -> None:
        self._restarts = restarts

    def collect(self) -> Iterator[CounterMetricFamily]:
        counter = CounterMetricFamily(
            "cpcsam_restarts", "Restarts by the supervisor.", labels=("program", "cause")
        )
        for labels, count in count_restarts(self._restarts).items():
            counter.add_metric(labels, count)
        yield counter
