"""Prometheus metrics of the HTTP front."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from serving.common.buckets import BUCKETS_S
from serving.common.preset_histogram import PresetHistogram
from serving.http.problems import CLIENT_GONE, STATUSES

__all__ = ["HttpMetrics"]

REASONS: Final = ("body", "full", "origin", "slow")
PHASES: Final = ("read", "parse", "gateway", "print")
CODES: Final = (200, *sorted({*STATUSES.values(), CLIENT_GONE, 413}))
"""Statuses of answers to requests that a route takes."""


class HttpMetrics:
    """Metrics of one HTTP front, in a registry of their own.

    Attributes:
        registry: collects all of them.
        request_seconds: histogram by `route` (its template), `method` and `code` (HTTP status).
        phase_seconds: histogram by `phase`: `read` (the body comes), `parse` (it becomes a
            message), `gateway` (the gRPC call) or `print` (the answer becomes JSON).
        in_flight: gauge of requests in flight.
        held_bytes: gauge of the bytes of their bodies.
        rejected: counter of requests that did not reach the gateway, by `reason`: `body` (too
            large), `full`, `origin` (a foreign page or host) or `slow`.

    Args:
        routes: template and method of each route that answers.
    """

    def __init__(self, routes: Iterable[tuple[str, str]] = ()) -> None:
        self.registry = CollectorRegistry()
        self.request_seconds = PresetHistogram(
            "cpcsam_http_request_seconds",
            "Time from a request's arrival to its answer.",
            ("route", "method", "code"),
            BUCKETS_S,
            [(*route, str(code)) for route in routes for code in CODES],
            self.registry,
        )
        self.phase_seconds = PresetHistogram(
            "cpcsam_http_phase_seconds",
            "Time of one phase of a request.",
            ("phase",),
            BUCKETS_S,
            zip(PHASES, strict=True),
            self.registry,
        )
        self.in_flight = Gauge(
            "cpcsam_http_in_flight_requests", "Requests in flight.", registry=self.registry
        )
        self.held_bytes = Gauge(
            "cpcsam_http_held_bytes", "Bytes of the bodies in flight.", registry=self.registry
        )
        self.rejected = Counter(
            "cpcsam_http_rejected",
            "Requests that did not reach the gateway, by reason.",
            ("reason",),
            registry=self.registry,
        )
        for reason in REASONS:
            self.rejected.labels(reason)
