"""Prometheus metrics and their endpoint."""

from __future__ import annotations

import urllib.request

import pytest

from cpcsam.errors import ServingError
from serving.gateway.metrics import BUCKETS_S, Metrics, serve_metrics


def read(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def test_serve_metrics_shows_counts_and_frees_its_port() -> None:
    metrics = Metrics()
    metrics.request_seconds.labels("Segment", "OK").observe(0.012)
    metrics.prompts.inc(3)
    metrics.rejected.labels("in_flight").inc()
    with pytest.raises(ValueError, match="boom"), metrics.stage("validate"):
        raise ValueError("boom")
    with serve_metrics(metrics, "127.0.0.1", 0) as port:
        text = read(port)
        with pytest.raises(ServingError, match=rf"metrics port: got 127.0.0.1:{port}"):
            serve_metrics(Metrics(), "127.0.0.1", port).__enter__()
    for line in (
        'cpcsam_request_seconds_bucket{code="OK",le="0.01",method="Segment"} 0.0',
        'cpcsam_request_seconds_bucket{code="OK",le="0.015",method="Segment"} 1.0',
        'cpcsam_request_seconds_count{code="OK",method="Segment"} 1.0',
        'cpcsam_stage_seconds_count{stage="validate"} 1.0',
        "cpcsam_in_flight_requests 0.0",
        "cpcsam_prompts_total 3.0",
        'cpcsam_rejected_total{reason="in_flight"} 1.0',
        'cpcsam_rejected_total{reason="invalid"} 0.0',
    ):
        assert line in text.splitlines()
    with serve_metrics(Metrics(), "127.0.0.1", port) as again:
        assert again == port


def test_buckets_span_5_ms_to_60_s_in_small_steps() -> None:
    assert (BUCKETS_S[0], BUCKETS_S[-1]) == (0.005, 60.0)
    steps = [high / low for low, high in zip(BUCKETS_S, BUCKETS_S[1:], strict=False)]
    assert min(steps) > 1.3 and max(steps[:-1]) < 1.7 and steps[-1] == 2


def test_stage_stops_at_the_end_of_the_block() -> None:
    metrics = Metrics()
    with metrics.stage("triton") as watch:
        running = watch.seconds
    assert running <= watch.seconds == watch.seconds
    assert metrics.registry.get_sample_value(
        "cpcsam_stage_seconds_sum", {"stage": "triton"}
    ) == pytest.approx(watch.seconds)
