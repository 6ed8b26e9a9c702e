"""Series of the gateway's metrics."""

from __future__ import annotations

import asyncio
import re

import pytest

from serving.common.buckets import BUCKETS_S
from serving.gateway.auth.authenticator import Authenticator
from serving.gateway.context import ModelInfo, RequestContext
from serving.gateway.metrics import Metrics
from serving.gateway.rpc import RpcRunner
from tests.support.paths import ROOT


def test_buckets_span_1_ms_to_60_s_in_small_steps() -> None:
    assert (BUCKETS_S[0], BUCKETS_S[-1]) == (0.001, 60.0)
    steps = [high / low for low, high in zip(BUCKETS_S, BUCKETS_S[1:], strict=False)]
    assert min(steps) > 1.3 and max(steps[:-1]) < 1.7 and steps[-1] == 2


def test_every_series_exists_before_the_first_request() -> None:
    metrics = Metrics()
    value = metrics.registry.get_sample_value
    for method in ("Segment", "SegmentStream", "Describe", "ListClasses", "AddClass"):
        for code in ("OK", "CANCELLED", "UNAVAILABLE", "INTERNAL", "RESOURCE_EXHAUSTED"):
            labels = {"method": method, "code": code}
            assert value("cpcsam_request_seconds_count", labels) == 0
            assert value("cpcsam_request_seconds_bucket", labels | {"le": "1.0"}) == 0
            assert value("cpcsam_request_seconds_bucket", labels | {"le": "+Inf"}) == 0
    rules = (ROOT / "deploy/prometheus/rules.yml").read_text()
    assert set(re.findall(r'le="([^"]+)"', rules)) == {"1.0"}
    for phase in ("queue", "decode", "encode", "decode_masks", "postprocess", "triton", "other"):
        assert value("cpcsam_phase_seconds_sum", {"phase": phase}) == 0
    metrics.request_seconds.labels("Segment", "INTERNAL").observe(0.1)
    labels = {"method": "Segment", "code": "INTERNAL"}
    assert value("cpcsam_request_seconds_count", labels) == 1
    assert value("cpcsam_request_seconds_bucket", labels | {"le": "0.075"}) == 0
    assert value("cpcsam_request_seconds_bucket", labels | {"le": "0.1"}) == 1


def test_model_of_a_replica_takes_the_place_of_the_one_before() -> None:
    metrics = Metrics()
    for version in ("1", "2"):
        metrics.show_model("a:8001", (version, "digest"))
    labels = {"replica": "a:8001", "digest": "digest"}
    value = metrics.registry.get_sample_value
    assert value("cpcsam_model_info", labels | {"version": "1"}) is None
    assert value("cpcsam_model_info", labels | {"version": "2"}) == 1
    metrics.forget_replica("a:8001")
    assert value("cpcsam_model_info", labels | {"version": "2"}) is None


@pytest.mark.parametrize(("remaining_s", "code"), [(1.0, "DEADLINE_EXCEEDED"), (60.0, "CANCELLED")])
async def test_cancellation_just_before_the_end_of_the_callers_time_counts_as_that(
    remaining_s: float, code: str
) -> None:
    """A caller knows its time limit exactly, and the server as gRPC rounds it up."""

    class Caller:
        def invocation_metadata(self) -> tuple[()]:
            return ()

        def time_remaining(self) -> float:
            return remaining_s

        def peer(self) -> str:
            return "ipv4:127.0.0.1:9"

    async def given_up(_: RequestContext) -> None:
        await asyncio.sleep(0.985)
        raise asyncio.CancelledError

    async def fetch_model(_: float) -> ModelInfo:
        raise AssertionError("no handler asks for it")

    metrics = Metrics()
    runner = RpcRunner(Authenticator(None), metrics, 60, fetch_model)
    with pytest.raises(asyncio.CancelledError):
        await runner.run_in_stream("Segment", "", given_up, Caller())
    labels = {"method": "Segment", "code": code}
    assert metrics.registry.get_sample_value("cpcsam_request_seconds_count", labels) == 1
