"""Self-description of the gateway: Describe, health, reflection and metrics."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

import cpcsam
from cpcsam.artifacts.manifest import read_manifest
from cpcsam.client import Prompt, SegmentationClient
from cpcsam.errors import CpcSamError
from serving.common.buckets import BUCKETS_S
from serving.gateway.server import Gateway
from serving.health import main as health_command
from serving.metrics_reference import TRITON
from serving.triton.launch import TritonServer
from tests.integration.gateway.asking import (
    LIMITS,
    clicks,
    page_of_reference,
    picture,
    read_metrics,
    types_of,
)
from tests.support.paths import ROOT
from tests.support.servers.prometheus import running_prometheus

pytestmark = pytest.mark.triton

PATIENCE_S = 180.0


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
    assert health_command(["--address", gateway.address]) == 0
    with grpc.insecure_channel(gateway.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "cpcsam.v1.Segmentation"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=60)
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
            "phased": value("cpcsam_phase_seconds_count", phase="other"),
            "encoded": value("cpcsam_phase_seconds_count", phase="encode"),
            "decoded": value("cpcsam_phase_seconds_count", phase="decode_masks"),
            "untimed": value("cpcsam_phase_seconds_count", phase="triton"),
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
        "phased": 4,
        "encoded": 1,
        "decoded": 2,
        "untimed": 0,
    }
    assert value("cpcsam_in_flight_requests") == 0


def test_metrics_pages_are_those_of_the_reference(gateway: Gateway, triton: TritonServer) -> None:
    assert types_of(gateway.metrics_url) == page_of_reference("Gateway")
    shown = types_of(triton.metrics_url)
    used = {name: kind for name, (kind, *_) in TRITON.items() if "gpu" not in name}
    assert {name: shown.get(name) for name in used} == used


def test_prometheus_answers_quantiles_and_phases_that_add_up(
    gateway: Gateway, client: SegmentationClient, triton: TritonServer, tmp_path: Path
) -> None:
    with prometheus(tmp_path, gateway, triton) as ask, ThreadPoolExecutor(4) as threads:
        deadline, numbers = time.monotonic() + PATIENCE_S, itertools.count(1000)

        def load() -> dict[str, float]:
            """Segment new images, until all that have passed is recorded."""
            while time.monotonic() < deadline:
                list(threads.map(lambda _: client.segment(picture(next(numbers)), clicks(2)), "12"))
                client.segment(picture(0), clicks(1))
                found = ask("phase:cpcsam_phase_seconds:p99 >= 0")
                if found.keys() >= PASSED and ask("phase:cpcsam_phase_seconds:share >= 0"):
                    return found
            return {}

        assert load().keys() >= PASSED
        for quantile in ("p50", "p95", "p99"):
            assert ask(f"phase:cpcsam_phase_seconds:{quantile} > 0").keys() >= PASSED
            assert ask(f"method:cpcsam_request_seconds:{quantile} > 0").keys() >= {"Segment"}
        shares = ask("phase:cpcsam_phase_seconds:share")
    assert sum(shares.values()) == pytest.approx(1, abs=0.1)
    assert shares["triton"] == 0 and all(shares[phase] > 0 for phase in PASSED)


PASSED = {"queue", "decode", "encode", "decode_masks", "postprocess", "other"}


@contextmanager
def prometheus(
    folder: Path, gateway: Gateway, triton: TritonServer
) -> Iterator[Callable[[str], dict[str, float]]]:
    """Run Prometheus with the rules of the deployment; yield a query by phase or method."""
    rules = (ROOT / "deploy/prometheus/rules.yml").read_text().replace("[5m]", "[1m]")
    pages = {"gateway": gateway.metrics_url, "triton": triton.metrics_url}
    with running_prometheus(folder, pages, "1s", rules) as client:

        def ask(query: str) -> dict[str, float]:
            try:
                answer = client.get("/api/v1/query", params={"query": query}).raise_for_status()
            except httpx.HTTPError:  # it starts
                return {}
            return {
                one["metric"].get("phase") or one["metric"].get("method", ""): float(
                    one["value"][1]
                )
                for one in answer.json()["data"]["result"]
            }

        yield ask
