"""Prometheus metrics of the gateway and their HTTP endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from cpcsam.errors import ServingError

__all__ = ["BUCKETS_S", "Metrics", "Stopwatch", "serve_metrics"]

BUCKETS_S: Final = (
    *(0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
    *(1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0),
)
"""Upper edges in seconds. The ratio of neighbours is at most 5/3 (2 for the last), which bounds the
error of quantiles."""


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
        prompts: counter of the prompts of accepted requests.
        rejected: counter of refused requests by `reason`: `invalid`, `over_limit`, `in_flight` or
            `unauthenticated`.
        cache_lookups: counter of embedding lookups by `outcome`: `hit`, `miss` or `joined` (another
            request was already computing it).
        cache_bytes: gauge of the embedding cache's size.
        cache_evictions: counter of evicted embeddings.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
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
        self.prompts = Counter(
            "cpcsam_prompts", "Prompts of the accepted requests.", registry=self.registry
        )
        self.rejected = Counter(
            "cpcsam_rejected", "Requests refused, by reason.", ("reason",), registry=self.registry
        )
        # Labels exist from the start, so that rates are 0 rather than absent.
        for reason in ("invalid", "over_limit", "in_flight", "unauthenticated"):
            self.rejected.labels(reason)
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

    @contextmanager
    def stage(self, name: str) -> Iterator[Stopwatch]:
        """Observe the duration of a block, whether it succeeds or not."""
        watch = Stopwatch()
        try:
            yield watch
        finally:
            watch.stop()
            self.stage_seconds.labels(name).observe(watch.seconds)


@contextmanager
def serve_metrics(metrics: Metrics, host: str, port: int) -> Iterator[int]:
    """Serve the metrics at `http://HOST:PORT/metrics` while the block runs.

    Args:
        metrics: to serve.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.

    Yields:
        The port.

    Raises:
        ServingError: the address cannot be listened on.
    """
    try:
        server, thread = start_http_server(port, host, metrics.registry)
    except OSError as error:
        raise ServingError.of(
            "metrics port",
            got=f"{host}:{port} ({error.strerror})",
            expected="an address that is free",
            fix="stop what listens there or give another --metrics-port",
        ) from error
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
