"""Self-description of the gateway: Describe, health, reflection and metrics."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

import cpcsam
from cpcsam.artifacts.manifest import read_manifest
from cpcsam.client import Prompt, SegmentationClient
from cpcsam.errors import CpcSamError
from serving.gateway.metrics import BUCKETS_S
from serving.gateway.server import Gateway
from tests.integration.gateway.asking import LIMITS, clicks, picture, read_metrics

pytestmark = pytest.mark.triton


def test_describe_returns_model_and_limits(client: SegmentationClient, repository: Path) -> None:
    description = client.describe()
    assert description.model_size == read_manifest(repository, verify=False).config["model_size"]
    assert (description.model_name, description.model_version, description.image_size) == (
        "segment",
        "1",
        256,
    )
    assert description.limits == {
        "max_image_bytes": 200_000,
        "max_pixels": 20_000,
        "max_prompts": 48,
        "max_points": 16,
        "max_in_flight": 64,
        "cache_bytes": LIMITS.cache_bytes,
        "max_queue_seconds": LIMITS.max_queue_s,
        "max_tiles": LIMITS.max_tiles,
        "max_clicks": LIMITS.max_clicks,
        "stream_window": LIMITS.stream_window,
        "max_seconds": 60,
        "max_name_length": 128,
        "max_examples": 64,
        "max_entities": 4096,
    }
    assert set(description.image_formats) == {"JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF"}
    assert description.gateway_version == cpcsam.__version__
    assert description.triton_version.startswith("2.")


def test_health_and_reflection_are_served(gateway: Gateway, client: SegmentationClient) -> None:
    assert client.healthy()
    with grpc.insecure_channel(gateway.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "cpcsam.v1.Segmentation"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert set(ProtoReflectionDescriptorDatabase(channel).get_services()) == {
            "cpcsam.v1.Segmentation",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }


def test_metrics_count_requests_and_refusals(gateway: Gateway, client: SegmentationClient) -> None:
    def value(name: str, **labels: str) -> float:
        return metrics.get((name, frozenset(labels.items())), 0.0)

    names = ["cpcsam_prompts_total", 'cpcsam_rejected_total{reason="invalid"}']
    before = {}
    for step in range(2):
        metrics = read_metrics(gateway)
        counts = {
            "ok": value("cpcsam_request_seconds_count", method="Segment", code="OK"),
            "ok_below_60_s": value(
                "cpcsam_request_seconds_bucket", method="Segment", code="OK", le=str(BUCKETS_S[-1])
            ),
            "bad": value("cpcsam_request_seconds_count", method="Segment", code="INVALID_ARGUMENT"),
            "prompts": value(names[0]),
            "invalid": value("cpcsam_rejected_total", reason="invalid"),
            "over_limit": value("cpcsam_rejected_total", reason="over_limit"),
            "validated": value("cpcsam_stage_seconds_count", stage="validate"),
            "triton": value("cpcsam_stage_seconds_count", stage="triton"),
        }
        if step == 0:
            before = counts
            client.segment(picture(), clicks(20))
            client.segment(picture(), clicks(2))
            for prompts in ([Prompt.click(-1, 0)], clicks(49)):
                with pytest.raises(CpcSamError):
                    client.segment(picture(), prompts)
    changes = {name: counts[name] - before[name] for name in counts}
    assert changes == {
        "ok": 2,
        "ok_below_60_s": 2,
        "bad": 1,
        "prompts": 22,
        "invalid": 1,
        "over_limit": 1,
        "validated": 4,
        "triton": 2,
    }
    assert value("cpcsam_in_flight_requests") == 0
