"""Buckets of Triton's latency histograms."""

from __future__ import annotations

from typing import Final

from tritonclient.grpc.model_config_pb2 import ModelMetrics

__all__ = ["latency_buckets"]

LATENCY_FAMILY: Final = "nv_inference_first_response_histogram_ms"
LATENCY_BUCKETS_MS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)


def latency_buckets() -> ModelMetrics:
    """Make latency buckets from 1 ms; Triton's own begin at 100 ms."""
    control = ModelMetrics.MetricControl(
        metric_identifier=ModelMetrics.MetricControl.MetricIdentifier(family=LATENCY_FAMILY),
        histogram_options=ModelMetrics.MetricControl.HistogramOptions(buckets=LATENCY_BUCKETS_MS),
    )
    return ModelMetrics(metric_control=[control])
