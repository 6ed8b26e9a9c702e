"""Prometheus metrics of the gateway."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from cpcsam.entry_points import ENSEMBLES
from cpcsam.grpc_errors import STATUS_CODES
from cpcsam.v1 import segmentation_pb2 as pb
from serving.common.buckets import BUCKETS_S
from serving.common.preset_histogram import PresetHistogram
from serving.gateway.phases import PHASES
from serving.supervision.restarts import count_restarts, count_switches

__all__ = ["Metrics", "Stopwatch"]

LAG_BUCKETS_S: Final = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)
"""Upper edges in seconds; beyond 0.05 callers notice."""

REASONS: Final = (
    *("invalid", "over_limit", "in_flight", "unauthenticated"),
    *("open_calls", "slow", "unread"),
)
METHODS: Final = tuple(pb.DESCRIPTOR.services_by_name["Segmentation"].methods_by_name)


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
        phase_seconds: histogram by `phase` of a Segment request, alone or of a stream; see
            `serving.gateway.phases`.
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
        replica_requests: gauge by `replica`, the requests in flight that keep to its model.
        model_info: gauge by `replica`, `version` and `digest`, 1 for the model that a Triton has.
        replica_success: gauge by `replica`, the Unix time of its last successful call or probe.
        probes: counter of answered probes by `entry_point`; those that pass through the encoder are
            images to Triton.
        probes_in_flight: gauge of replicas that are being probed.
        retried_calls: counter of calls made again, on another Triton.

    Args:
        restarts: list of what a supervisor restarted; None without one.
    """

    def __init__(self, restarts: Path | None = None) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_RestartCollector(restarts))
        self.request_seconds = PresetHistogram(
            "cpcsam_request_seconds",
            "Time from a request's arrival to its response.",
            ("method", "code"),
            BUCKETS_S,
            product(METHODS, (code.name for code in STATUS_CODES)),
            self.registry,
            objective=1.0,
        )
        self.phase_seconds = PresetHistogram(
            "cpcsam_phase_seconds",
            "Time of one phase of a Segment request that passes through it.",
            ("phase",),
            BUCKETS_S,
            zip(PHASES, strict=True),
            self.registry,
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
        # Labels exist from the start, so that rates are 0 rather than absent.
        for queue in ("encode", "decode"):
            self.backlog_seconds.labels(queue)
        self.prompts = Counter(
            "cpcsam_prompts", "Prompts of the accepted requests.", registry=self.registry
        )
        self.rejected = Counter(
            "cpcsam_rejected", "Requests refused, by reason.", ("reason",), registry=self.registry
        )
        for reason in REASONS:
            self.rejected.labels(reason)
        self.open_calls = Gauge(
            "cpcsam_open_calls", "Open calls, by kind.", ("kind",), registry=self.registry
        )
        for kind in ("api", "health", "watch", "reflection"):
            self.open_calls.labels(kind)
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
        self.replica_requests = Gauge(
            "cpcsam_replica_requests",
            "Requests in flight that keep to the model of a Triton.",
            ("replica",),
            registry=self.registry,
        )
        self._requests: dict[tuple[str, str], int] = {}
        self._followed: dict[Gauge, Callable[[], float]] = {}
        self.model_info = Gauge(
            "cpcsam_model_info",
            "Model that a Triton serves.",
            ("replica", "version", "digest"),
            registry=self.registry,
        )
        self.probes = Counter(
            "cpcsam_probes", "Answered probes.", ("entry_point",), registry=self.registry
        )
        for spec in ENSEMBLES:
            self.probes.labels(spec.name)
        self.probes_in_flight = Gauge(
            "cpcsam_probes_in_flight", "Triton's replicas under probe.", registry=self.registry
        )
        self.retried_calls = Counter(
            "cpcsam_retried_calls", "Calls made again, on another Triton.", registry=self.registry
        )

    def follow(self, gauge: Gauge, value: Callable[[], float]) -> None:
        """Have a gauge show what a function returns, each time that `refresh` is called."""
        self._followed[gauge] = value

    def refresh(self) -> None:
        """Read what gauges follow; to be called where it changes, in the event loop."""
        for gauge, value in self._followed.items():
            gauge.set(value())

    def show_model(self, replica: str, identity: tuple[str, str]) -> None:
        """Show the version and digest of the model that a replica serves, in place of the last."""
        self.model_info.remove_by_labels({"replica": replica})
        self.model_info.labels(replica, *identity).set(1)

    def forget_replica(self, replica: str) -> None:
        """Remove the series of a replica that is not listed any more."""
        self._followed.pop(self.replica_requests.labels(replica), None)
        for gauge in (
            self.replica_up,
            self.replica_success,
            self.replica_requests,
            self.model_info,
        ):
            gauge.remove_by_labels({"replica": replica})

    @contextmanager
    def request_of(self, identity: tuple[str, str]) -> Iterator[None]:
        """Count a request that keeps to a model while the block runs."""
        self._requests[identity] = self.requests_of(identity) + 1
        try:
            yield
        finally:
            self._requests[identity] -= 1
            if not self._requests[identity]:
                del self._requests[identity]

    def requests_of(self, identity: tuple[str, str]) -> int:
        """Return how many requests keep to a model, named by its version and digest."""
        return self._requests.get(identity, 0)


class _RestartCollector(Collector):
    """Counters of restarts by `program` and `cause`, and of switches by `outcome`.

    They are read from the supervisor's list.
    """

    def __init__(self, restarts: Path | None) -> None:
        self._restarts = restarts

    def collect(self) -> Iterator[CounterMetricFamily]:
        counter = CounterMetricFamily(
            "cpcsam_restarts", "Restarts by the supervisor.", labels=("program", "cause")
        )
        for labels, count in count_restarts(self._restarts).items():
            counter.add_metric(labels, count)
        yield counter
        switches = CounterMetricFamily(
            "cpcsam_version_switches",
            "Switches to another version of the model, done or refused.",
            labels=("outcome",),
        )
        for outcome, count in count_switches(self._restarts).items():
            switches.add_metric((outcome,), count)
        yield switches
