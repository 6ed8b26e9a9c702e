"""The gateway's Prometheus metrics and the HTTP endpoint that shows them."""

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
"""Upper edges in seconds, each at most 5/3 of the one before, so that quantiles are read finely;
only the last step is 2."""


class Stopwatch:
    """Seconds of a block; `seconds` counts on until the block ends."""

    def __init__(self) -> None:
        self._started = perf_counter()
        self._seconds: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds from the start to now, or to the end of the block."""
        return perf_counter() - self._started if self._seconds is None else self._seconds

    def stop(self) -> None:
        """Hold the time."""
        self._seconds = perf_counter() - self._started


class Metrics:
    """The metrics of one gateway, in a registry of their own.

    Attributes:
        registry: holds all of them.
        request_seconds: histogram by `method` and `code` (the gRPC status' name).
        stage_seconds: histogram by `stage`: `validate`, `queue` (for a first turn) or `triton` (the
            queue included).
        in_flight: Segment requests in work.
        prompts: prompts of the accepted requests.
        rejected: requests refused by `reason`: `invalid`, `over_limit`, `in_flight` or
            `unauthenticated`.
        cache_lookups: look-ups of embeddings by `outcome`: `hit`, `miss` or `joined`, where another
            request was computing the same.
        cache_bytes: of the embeddings kept.
        cache_evictions: embeddings that gave way to others.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.request_seconds = Histogram(
            "cpcsam_request_seconds",
            "Time from a request's arrival to its answer.",
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
            "cpcsam_in_flight_requests", "Segment requests in work.", registry=self.registry
        )
        self.prompts = Counter(
            "cpcsam_prompts", "Prompts of the accepted requests.", registry=self.registry
        )
        self.rejected = Counter(
            "cpcsam_rejected", "Requests refused, by reason.", ("reason",), registry=self.registry
        )
        for reason in ("invalid", "over_limit", "in_flight", "unauthenticated"):
            self.rejected.labels(reason)
        self.cache_lookups = Counter(
            "cpcsam_cache_lookups",
            "Look-ups of embeddings, by outcome.",
            ("outcome",),
            registry=self.registry,
        )
        for outcome in ("hit", "miss", "joined"):
            self.cache_lookups.labels(outcome)
        self.cache_bytes = Gauge(
            "cpcsam_cache_bytes", "Bytes of the embeddings kept.", registry=self.registry
        )
        self.cache_evictions = Counter(
            "cpcsam_cache_evictions",
            "Embeddings that gave way to others.",
            registry=self.registry,
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[Stopwatch]:
        """Time a stage, whether it succeeds or not."""
        watch = Stopwatch()
        try:
            yield watch
        finally:
            watch.stop()
            self.stage_seconds.labels(name).observe(watch.seconds)


@contextmanager
def serve_metrics(metrics: Metrics, host: str, port: int) -> Iterator[int]:
    """Show the metrics at `http://HOST:PORT/metrics` while the block runs.

    Args:
        metrics: what to show.
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
