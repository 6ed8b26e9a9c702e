"""Errors of the gateway: wrong input, limits, deadlines and cancellation."""

from __future__ import annotations

import contextlib
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc
import pytest

from cpcsam.client import Everything, MaskSelection, Prompt, SegmentationClient, encode_image
from cpcsam.errors import ContractError, CpcSamError
from cpcsam.grpc_errors import DeadlineError, FullError, LimitError
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from serving.gateway.limits import Limits
from serving.gateway.run import gateway_in_background
from serving.gateway.server import Gateway, GatewayConfig
from serving.triton.launch import TritonServer
from tests.integration.gateway.asking import HEIGHT, LIMITS, WIDTH, clicks, picture

pytestmark = pytest.mark.triton

BOX = (0.0, 0.0, 10.0, 10.0)

BAD = {
    "empty image": (b"", [Prompt.click(1, 1)], ContractError, "image_bytes: got nothing"),
    "text": (b"just text", [Prompt.click(1, 1)], ContractError, "bytes that cannot be decoded"),
    "cut off": (
        encode_image(picture())[:900],
        [Prompt.click(1, 1)],
        ContractError,
        r"cannot be decoded \(",
    ),
    "too many bytes": (bytes(200_001), [Prompt.click(1, 1)], LimitError, "got 200001 bytes"),
    "too many pixels": (picture(0, 101, 200), [Prompt.click(1, 1)], LimitError, "200 x 101 pixels"),
    "too oblong": (
        picture(0, 1, 2000),
        [Prompt.click(0, 0)],
        ContractError,
        "original_size: got 1 x 2000",
    ),
    "no prompt": (picture(), [], ContractError, "prompts, classes and everything: got none"),
    "49 prompts": (picture(), clicks(49), LimitError, "prompts: got 49, expected at most 48"),
    "10,000 prompts": (picture(), clicks(10_000), LimitError, "prompts: got 10000"),
    "empty prompt": (picture(), [Prompt()], ContractError, r"prompts\[0\]: got no points"),
    "17 slots": (
        picture(),
        [Prompt(((1.0, 1.0),) * 15, box=BOX)],
        ContractError,
        r"got 17 point slots \(a box takes 2\), expected at most 16",
    ),
    "NaN": (picture(), [Prompt.click(math.nan, 1)], ContractError, r"points\[0\]: got \(nan, 1\)"),
    "infinite": (picture(), [Prompt.click(1, math.inf)], ContractError, r"got \(1, inf\)"),
    "outside": (
        picture(),
        [Prompt.click(1, 1), Prompt.click(WIDTH, 1)],
        ContractError,
        r"prompts\[1\]\.points\[0\]: got \(100, 1\), expected 0 <= x < 100 and 0 <= y < 60",
    ),
    "negative": (picture(), [Prompt.click(-0.5, 1)], ContractError, r"got \(-0.5, 1\)"),
    "empty box": (picture(), [Prompt(box=(5, 5, 5, 9))], ContractError, r"box: got \(5, 5, 5, 9\)"),
    "box outside": (picture(), [Prompt(box=(5, 5, 101, 9))], ContractError, r"x1 <= 100"),
    "NaN box": (
        picture(),
        [Prompt(box=(0, 0, math.nan, 9))],
        ContractError,
        r"got \(0, 0, nan, 9\)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_segment_with_invalid_input_names_it_and_keeps_serving(
    client: SegmentationClient, case: str
) -> None:
    image, prompts, kind, message = BAD[case]
    with pytest.raises(kind, match=message) as caught:
        client.segment(image, prompts)
    assert type(caught.value) is kind
    assert ", expected " in str(caught.value) and "; " in str(caught.value)
    assert "\n" not in str(caught.value) and "ensemble" not in str(caught.value)
    assert len(client.segment(picture(), clicks(1)).masks) == 1


def test_segment_with_invalid_input_returns_its_grpc_status(gateway: Gateway) -> None:
    image_bytes = encode_image(picture())
    click = pb.Prompt(points=[pb.Point(x=1, y=1)])
    with grpc.insecure_channel(gateway.address) as channel:
        stub = pb_grpc.SegmentationStub(channel)
        for request, status in (
            (pb.SegmentRequest(prompts=[click]), "INVALID_ARGUMENT"),
            (
                pb.SegmentRequest(image_bytes=image_bytes, prompts=[click], mask_selection=9),
                "INVALID_ARGUMENT",
            ),
            (
                pb.SegmentRequest(image_bytes=image_bytes, prompts=[click], request_id="x" * 129),
                "INVALID_ARGUMENT",
            ),
            (
                pb.SegmentRequest(image_bytes=image_bytes, prompts=[click] * 49),
                "RESOURCE_EXHAUSTED",
            ),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                stub.Segment(request, timeout=60)
            assert caught.value.code().name == status


def test_prompts_in_more_tiles_than_the_limit_are_refused(triton: TritonServer) -> None:
    limits = replace(LIMITS, max_tiles=2)
    config = GatewayConfig(triton=triton.grpc_url, port=0, metrics_port=0, limits=limits)
    corners = [Prompt.click(x, y) for x, y in ((0, 0), (WIDTH - 1, 0), (WIDTH - 1, HEIGHT - 1))]
    tiled: dict[str, Any] = {"tile_size": HEIGHT // 2, "tile_overlap": 0.0}
    with (
        gateway_in_background(config) as narrow,
        SegmentationClient(narrow.address, timeout_s=60) as client,
    ):
        assert len(client.segment(picture(), corners[:2], **tiled).masks) == 2
        with pytest.raises(
            LimitError, match="tiles: got prompts in 3 tiles .*, expected at most 2"
        ):
            client.segment(picture(), corners, **tiled)


def test_segment_with_a_short_deadline_is_refused(gateway: Gateway) -> None:
    with SegmentationClient(gateway.address, timeout_s=0.002) as hurried:
        with pytest.raises((DeadlineError, FullError)):
            hurried.segment(picture(), clicks(40))
    with SegmentationClient(gateway.address) as patient:
        assert len(patient.segment(picture(), clicks(1)).masks) == 1


def test_everything_that_cannot_be_answered_in_time_is_refused_at_once(gateway: Gateway) -> None:
    with SegmentationClient(gateway.address, retry=False) as client:
        started = time.monotonic()
        client.segment(picture(1), everything=Everything())
        alone_s = time.monotonic() - started
    more = Everything(points_per_side=64)  # four times as many as by default
    with SegmentationClient(gateway.address, timeout_s=alone_s / 2, retry=False) as hurried:
        with pytest.raises(FullError, match="deadline: got calls that take about .* by themselves"):
            hurried.segment(picture(2), everything=more)


def test_triton_with_cancelled_callers_survives(gateway: Gateway, triton: TritonServer) -> None:
    def segment(number: int) -> None:
        with SegmentationClient(
            gateway.address, timeout_s=0.002 + 0.003 * (number % 50)
        ) as hurried:
            with contextlib.suppress(DeadlineError, LimitError):
                hurried.segment(picture(), clicks(1 + 15 * (number % 4)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(segment, range(120)))
    assert triton.process.poll() is None
    deadline = time.monotonic() + 60
    with SegmentationClient(gateway.address) as patient:
        while True:
            try:
                assert len(patient.segment(picture(), clicks(1)).masks) == 1
                return
            except LimitError:  # Triton still works on what was given up
                assert time.monotonic() < deadline
                time.sleep(0.1)


def test_segment_when_full_is_refused_and_succeeds_on_retry(triton: TritonServer) -> None:
    config = GatewayConfig(
        triton=triton.grpc_url, port=0, metrics_port=0, limits=Limits(max_in_flight=1)
    )
    with (
        gateway_in_background(config) as gateway,
        SegmentationClient(gateway.address, retry=False) as client,
        SegmentationClient(gateway.address) as patient,
    ):

        def segment(_: int) -> type[CpcSamError] | None:
            try:
                client.segment(picture(), clicks(100), mask_selection=MaskSelection.ALL)
            except CpcSamError as error:
                return type(error)
            return None

        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(segment, range(8)))
        assert set(outcomes) == {None, FullError}
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: patient.segment(picture(), clicks(1)), range(4)))
        assert len(answers) == 4, "who tries again is answered"
