"""SegmentStream over the real Triton: order, backpressure, deadlines and tokens."""

from __future__ import annotations

import itertools
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from prometheus_client.parser import text_string_to_metric_families

from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from serving.gateway.auth.tokens import USER, digest_of
from serving.gateway.limits import Limits
from serving.gateway.run import gateway_in_background
from serving.gateway.server import Gateway, GatewayConfig
from serving.triton.launch import TritonServer
from tests.support.servers.triton_calls import noise_png

pytestmark = pytest.mark.triton

WINDOW = 3
LIMITS = Limits(stream_window=WINDOW, max_in_flight=4)
PATIENCE_S = 180.0
CLICK = pb.Prompt(points=[pb.Point(x=20, y=30)])


@pytest.fixture(scope="module")
def gateway(triton: TritonServer, rare_probes: None) -> Iterator[Gateway]:
    config = GatewayConfig(triton=triton.grpc_url, port=0, metrics_port=0, limits=LIMITS)
    with gateway_in_background(config) as running:
        yield running


@pytest.fixture(scope="module")
def stub(gateway: Gateway) -> Iterator[pb_grpc.SegmentationStub]:
    with grpc.insecure_channel(gateway.address) as channel:
        yield pb_grpc.SegmentationStub(channel)


def request(number: int, **fields: object) -> pb.SegmentRequest:
    image = noise_png(60 + number, 80, seed=number)
    return pb.SegmentRequest(
        **{"request_id": f"r-{number}", "image_bytes": image, "prompts": [CLICK], **fields}
    )


def in_flight(gateway: Gateway) -> float:
    return metric(gateway, "cpcsam_in_flight_requests")


def answered(gateway: Gateway) -> float:
    """Return the number of stream requests that the gateway has answered."""
    return metric(gateway, "cpcsam_request_seconds_count", method="SegmentStream")


def metric(gateway: Gateway, name: str, **labels: str) -> float:
    with urllib.request.urlopen(gateway.metrics_url, timeout=60) as page:
        families = list(text_string_to_metric_families(page.read().decode()))
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_stream_returns_in_order_and_continues_after_an_invalid_request(
    stub: pb_grpc.SegmentationStub,
) -> None:
    requests = [request(number) for number in range(12)]
    requests[4] = request(4, image_bytes=b"text")
    requests[7] = request(7, prompts=[])
    requests[9] = request(9, image_id="0" * 64)
    answers = list(stub.SegmentStream(iter(requests), timeout=PATIENCE_S))
    assert [answer.request_id for answer in answers] == [sent.request_id for sent in requests]
    failed = {4: "INVALID_ARGUMENT", 7: "INVALID_ARGUMENT", 9: "NOT_FOUND"}
    for number, answer in enumerate(answers):
        if number in failed:
            failure = answer.failure
            assert failure.code == grpc.StatusCode[failed[number]].value[0]
            status = status_pb2.Status.FromString(failure.details)
            assert (status.code, status.message) == (failure.code, failure.message)
            assert status.details[0].Is(error_details_pb2.ErrorInfo.DESCRIPTOR)
        else:
            alone = stub.Segment(requests[number], timeout=PATIENCE_S)
            (mine,), (theirs,) = answer.response.results[0].masks, alone.results[0].masks
            assert mine.coco_rle == theirs.coco_rle
            assert mine.score == pytest.approx(theirs.score, rel=1e-4)
            assert answer.response.image_id == alone.image_id


def test_stream_without_reader_stops_reading_requests(
    gateway: Gateway, stub: pb_grpc.SegmentationStub
) -> None:
    # 2.4 MB an answer: more than the buffers of a connection take.
    large = {
        "prompts": [CLICK] * 48,
        "mask_selection": pb.MASK_SELECTION_ALL,
        "return_low_res_masks": True,
    }
    before = answered(gateway)
    answers = stub.SegmentStream(request(number, **large) for number in itertools.count())
    last, since = before, time.monotonic()
    while last == before or time.monotonic() < since + 3:
        if (now := answered(gateway)) != last or in_flight(gateway):
            last, since = now, time.monotonic()
        time.sleep(0.1)
    read = int(last - before)
    assert WINDOW <= read <= WINDOW + 8, "what the connection holds, and the window"
    for number in range(read):
        assert next(answers).request_id == f"r-{number}"
    wait_until(lambda: answered(gateway) > last)
    answers.cancel()
    wait_until(lambda: in_flight(gateway) == 0)


def test_stream_when_full_waits_and_unary_requests_are_refused(
    stub: pb_grpc.SegmentationStub,
) -> None:
    """Four streams of window 3 compete for 4 permits."""

    def stream(first: int) -> list[pb.SegmentStreamResponse]:
        requests = [request(first + number) for number in range(8)]
        return list(stub.SegmentStream(iter(requests), timeout=PATIENCE_S))

    with ThreadPoolExecutor(4) as pool:
        for answers in pool.map(stream, (0, 10, 20, 30)):
            assert [answer.WhichOneof("outcome") for answer in answers] == ["response"] * 8


def test_stream_at_its_deadline_ends_and_frees_its_permits(
    gateway: Gateway, stub: pb_grpc.SegmentationStub
) -> None:
    hold = threading.Event()

    def waiting() -> Iterator[pb.SegmentRequest]:
        yield request(1)
        hold.wait(PATIENCE_S)

    answers = stub.SegmentStream(waiting(), timeout=3)
    with pytest.raises(grpc.RpcError) as caught:
        list(answers)
    hold.set()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: in_flight(gateway) == 0)
    assert stub.Segment(request(2), timeout=PATIENCE_S).results


def test_stream_without_a_token_is_refused(triton: TritonServer, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.txt"
    tokens.write_text(f"lab {USER} {digest_of('good')}\n")
    config = GatewayConfig(triton=triton.grpc_url, port=0, metrics_port=0, tokens=tokens)
    with (
        gateway_in_background(config) as gateway,
        grpc.insecure_channel(gateway.address) as channel,
    ):
        open_stream = pb_grpc.SegmentationStub(channel).SegmentStream
        with pytest.raises(grpc.RpcError) as caught:
            list(open_stream(iter([request(1)]), timeout=PATIENCE_S))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        good = (("authorization", "Bearer good"),)
        (answer,) = open_stream(iter([request(1)]), timeout=PATIENCE_S, metadata=good)
        assert answer.response.results
