"""The gateway in front of the real Triton: good answers, named errors, and it goes on serving."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from numpy.typing import NDArray
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from pycocotools import mask as coco_mask
from tritonclient.grpc import InferenceServerClient

import cpcsam
from cpcsam.artifact import read_manifest
from cpcsam.client import MaskSelection, Prompt, SegmentationClient, encode_image
from cpcsam.errors import ContractError, CpcSamError
from cpcsam.results import SegmentResult
from cpcsam.status import DeadlineError, FullError, LimitError, NotFoundError
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from serving.background import gateway_in_background
from serving.gateway import Gateway, GatewayConfig
from serving.limits import Limits
from serving.metrics import BUCKETS_S
from serving.triton import TritonServer

pytestmark = pytest.mark.triton

ROOT = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH = 60, 100
LIMITS = Limits(max_image_bytes=200_000, max_pixels=20_000, max_prompts=48)


def picture(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """Smooth light and dark regions, different for each seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8))
    return np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))


def clicks(count: int, seed: int = 0) -> list[Prompt]:
    rng = np.random.default_rng(seed)
    points = rng.uniform((0, 0), (WIDTH - 1, HEIGHT - 1), (count, 2))
    return [Prompt.click(float(x), float(y)) for x, y in points]


@pytest.fixture(scope="module")
def gateway(triton: TritonServer) -> Iterator[Gateway]:
    config = GatewayConfig(triton=triton.grpc_url, port=0, metrics_port=0, limits=LIMITS)
    with gateway_in_background(config) as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[SegmentationClient]:
    with SegmentationClient(gateway.address, timeout_s=60) as connected:
        yield connected


def assert_same(one: SegmentResult, other: SegmentResult) -> None:
    assert one.original_size == other.original_size
    for mine, theirs in zip(one.masks, other.masks, strict=True):
        for mask, same in zip(mine, theirs, strict=True):
            assert mask.score == pytest.approx(same.score, rel=1e-4)
            union = (mask.array | same.array).sum()
            assert (mask.array & same.array).sum() >= 0.999 * union


@pytest.mark.parametrize("count", [1, 3, 20])
@pytest.mark.parametrize("selection", MaskSelection)
def test_every_prompt_gets_its_masks(
    client: SegmentationClient, count: int, selection: MaskSelection
) -> None:
    asked = clicks(count)
    result = client.segment(picture(), asked, mask_selection=selection, request_id="r-1")
    assert (result.request_id, result.original_size) == ("r-1", (HEIGHT, WIDTH))
    assert (result.model_name, result.model_version) == ("segment", "1")
    assert result.prompts == tuple(asked)
    wanted = 3 if selection is MaskSelection.ALL else 1
    assert [len(masks) for masks in result.masks] == [wanted] * count
    assert set(result.timings_ms) == {"validate", "triton", "total"}
    assert 0 < result.timings_ms["triton"] <= result.timings_ms["total"]
    for mask in (mask for masks in result.masks for mask in masks):
        assert mask.array.shape == (HEIGHT, WIDTH) and mask.area == mask.array.sum()
        assert math.isfinite(mask.score)
        rows, columns = np.nonzero(mask.array)
        box = (
            (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            if len(rows)
            else (0,) * 4
        )
        assert mask.box == box


def test_best_is_the_best_of_all(client: SegmentationClient) -> None:
    image, asked = picture(), clicks(3)
    best = client.segment(image, asked, mask_selection=MaskSelection.BEST)
    every = client.segment(image, asked, mask_selection=MaskSelection.ALL)
    for (chosen,), three in zip(best.masks, every.masks, strict=True):
        highest = max(three, key=lambda mask: mask.score)
        assert chosen.counts == highest.counts
        assert chosen.score == pytest.approx(highest.score, rel=1e-4)


def test_many_prompts_get_what_each_gets_alone(client: SegmentationClient) -> None:
    image, asked = picture(1), clicks(36, seed=1)
    together = client.segment(image, asked, mask_selection=MaskSelection.ALL)
    alone = [client.segment(image, [one], mask_selection=MaskSelection.ALL) for one in asked]
    scores = {round(result.masks[0][0].score, 6) for result in alone}
    assert len(scores) > 20, "the answers must depend on the prompts"
    for masks, single in zip(together.masks, alone, strict=True):
        assert_same(SegmentResult(**{**vars(single), "masks": (masks,)}), single)


def test_clients_at_once_get_what_each_gets_alone(gateway: Gateway) -> None:
    def ask(seed: int) -> SegmentResult:
        with SegmentationClient(gateway.address) as mine:
            image = picture(seed, height=40 + seed, width=90 - seed)
            return mine.segment(image, [Prompt.click(5 + seed, 6)] * (1 + 3 * seed))

    alone = [ask(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        for result, expected in zip(pool.map(ask, range(6)), alone, strict=True):
            assert_same(result, expected)


def test_an_image_may_come_in_every_form(client: SegmentationClient, tmp_path: Path) -> None:
    image, asked = picture(), clicks(2)
    file = tmp_path / "image.png"
    Image.fromarray(image).save(file)
    expected = client.segment(image, asked)
    for form in (Image.fromarray(image), file, str(file), file.read_bytes()):
        assert_same(client.segment(form, asked), expected)


def test_a_sideways_photo_is_seen_upright(client: SegmentationClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(picture()).save(file, "PNG", exif=exif)
    result = client.segment(file.getvalue(), [Prompt.click(HEIGHT - 1, WIDTH - 1)])
    assert result.original_size == (WIDTH, HEIGHT)
    assert_same(
        result,
        client.segment(np.rot90(picture(), -1).copy(), [Prompt.click(HEIGHT - 1, WIDTH - 1)]),
    )


BOX = (0.0, 0.0, 10.0, 10.0)
BAD = {
    "empty image": (b"", [Prompt.click(1, 1)], ContractError, "image_bytes: got nothing"),
    "text": (b"just text", [Prompt.click(1, 1)], ContractError, "without a readable image header"),
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
def test_bad_input_is_named_and_serving_goes_on(client: SegmentationClient, case: str) -> None:
    image, asked, kind, told = BAD[case]
    with pytest.raises(kind, match=told) as caught:
        client.segment(image, asked)
    assert type(caught.value) is kind
    assert ", expected " in str(caught.value) and "; " in str(caught.value)
    assert "\n" not in str(caught.value) and "ensemble" not in str(caught.value)
    assert len(client.segment(picture(), clicks(1)).masks) == 1


def test_statuses_on_the_wire(gateway: Gateway) -> None:
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
                stub.Segment(request, timeout=30)
            assert caught.value.code().name == status


def test_a_deadline_too_short_is_told(gateway: Gateway) -> None:
    with SegmentationClient(gateway.address, timeout_s=0.002) as hurried:
        with pytest.raises(DeadlineError):
            hurried.segment(picture(), clicks(40))
    with SegmentationClient(gateway.address) as patient:
        assert len(patient.segment(picture(), clicks(1)).masks) == 1


def test_triton_survives_callers_that_give_up(gateway: Gateway, triton: TritonServer) -> None:
    def ask(number: int) -> None:
        with SegmentationClient(
            gateway.address, timeout_s=0.002 + 0.003 * (number % 50)
        ) as hurried:
            with contextlib.suppress(DeadlineError, LimitError):
                hurried.segment(picture(), clicks(1 + 15 * (number % 4)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(120)))
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


def test_a_full_gateway_refuses_and_the_others_are_answered(triton: TritonServer) -> None:
    config = GatewayConfig(
        triton=triton.grpc_url, port=0, metrics_port=0, limits=Limits(max_in_flight=1)
    )
    with (
        gateway_in_background(config) as gateway,
        SegmentationClient(gateway.address, retry=False) as client,
        SegmentationClient(gateway.address) as patient,
    ):

        def ask(_: int) -> type[CpcSamError] | None:
            try:
                client.segment(picture(), clicks(100), mask_selection=MaskSelection.ALL)
            except CpcSamError as error:
                return type(error)
            return None

        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(ask, range(8)))
        assert set(outcomes) == {None, FullError}
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: patient.segment(picture(), clicks(1)), range(4)))
        assert len(answers) == 4, "who tries again is answered"


def test_describe(client: SegmentationClient, repository: Path) -> None:
    told = client.describe()
    assert told.model_size == read_manifest(repository, verify=False).config["model_size"]
    assert (told.model_name, told.model_version, told.image_size) == ("segment", "1", 256)
    assert told.limits == {
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
    assert set(told.image_formats) == {"JPEG", "PNG", "TIFF", "BMP", "WEBP"}
    assert told.gateway_version == cpcsam.__version__
    assert told.triton_version.startswith("2.")


def test_health_and_reflection(gateway: Gateway, client: SegmentationClient) -> None:
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


def read_metrics(gateway: Gateway) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    with urllib.request.urlopen(gateway.metrics_url, timeout=5) as answer:
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_what_happened(gateway: Gateway, client: SegmentationClient) -> None:
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
            for asked in ([Prompt.click(-1, 0)], clicks(49)):
                with pytest.raises(CpcSamError):
                    client.segment(picture(), asked)
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


def test_the_command_line_end_to_end(gateway: Gateway, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(picture()).save(image)
    options = ["--click", "20,30", "--negative", "90,5", "--box", "10,10,60,50", "--click", "70,8"]
    command = [sys.executable, "-m", "cpcsam", "segment", str(image), *options]
    out = tmp_path / "out"
    done = subprocess.run(
        [*command, "--mask-selection", "all", "--out", str(out), "--address", gateway.address],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.rglob("*.*")) == ["masks.json", "overlay.png"]
    annotations = json.loads((out / "image/masks.json").read_text())["annotations"]
    assert [entry["prompt_index"] for entry in annotations] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert annotations[0]["prompt"] == {
        "point_coords": [[20, 30], [90, 5]],
        "point_labels": [1, 0],
        "box": None,
    }
    for entry in annotations:
        mask = coco_mask.decode(entry["segmentation"])
        assert mask.shape == (HEIGHT, WIDTH) and mask.sum() == entry["area"]
    with Image.open(out / "image/overlay.png") as overlay:
        assert overlay.size == (WIDTH, HEIGHT)
        assert (np.array(overlay) != picture()).any()
    assert re.fullmatch(rf"{image}: 9 masks \(mean score [\d.-]+\), {out / 'image'}\n", done.stdout)


def test_the_command_line_tells_the_servers_error_and_writes_nothing(
    gateway: Gateway, tmp_path: Path
) -> None:
    image, out = tmp_path / "image.png", tmp_path / "out"
    Image.fromarray(picture()).save(image)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "cpcsam", "segment", str(image), "--click", "500,3"),
            *("--out", str(out), "--address", gateway.address),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2 and done.stdout == "" and not out.exists()
    assert done.stderr == (
        f"cpcsam segment: {image}: prompts[0].points[0]: got (500, 3), expected 0 <= x < 100 and "
        "0 <= y < 60; give pixels of the upright original image as (x, y)\n"
    )


def test_the_status_command(gateway: Gateway) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cpcsam", "status", "--address", gateway.address],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "health    serving" in done.stdout and "limit     max_prompts 48" in done.stdout


def encoder_runs(triton: TritonServer) -> int:
    """Images that Triton's encoder has seen, whatever batches they came in."""
    with InferenceServerClient(triton.grpc_url) as asked:
        (model,) = asked.get_inference_statistics("image_encoder").model_stats
        return int(model.inference_count)


def test_a_repeated_image_is_encoded_and_sent_once(
    gateway: Gateway, client: SegmentationClient, triton: TritonServer
) -> None:
    image = encode_image(picture(77))
    fresh = client.segment(image, clicks(20))
    before = encoder_runs(triton)
    again = client.segment(image, clicks(20))
    named = client.segment(fresh.image_id, clicks(20))
    assert encoder_runs(triton) == before
    assert [one.cached for one in (fresh, again, named)] == [False, True, True]
    assert fresh.image_id == again.image_id == hashlib.sha256(image).hexdigest()
    assert_same(again, fresh)
    assert_same(named, fresh)
    with pytest.raises(ContractError, match=r"got \(100, 1\), expected 0 <= x < 100"):
        client.segment(fresh.image_id, [Prompt.click(WIDTH, 1)])


def test_equal_requests_that_meet_are_encoded_once(gateway: Gateway, triton: TritonServer) -> None:
    image, before = encode_image(picture(78)), encoder_runs(triton)

    def ask(seed: int) -> SegmentResult:
        with SegmentationClient(gateway.address) as mine:
            return mine.segment(image, clicks(3, seed))

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, range(8)))
    assert encoder_runs(triton) - before == 1
    for seed, result in enumerate(together):
        assert_same(result, ask(seed))


def test_an_image_that_gave_way_is_told_and_the_client_sends_it_again(
    triton: TritonServer,
) -> None:
    config = GatewayConfig(
        triton=triton.grpc_url, port=0, metrics_port=0, limits=Limits(cache_bytes=300_000)
    )
    with gateway_in_background(config) as gateway, SegmentationClient(gateway.address) as client:
        first = client.segment(picture(1), clicks(2))
        assert client.segment(picture(1), clicks(2)).cached
        client.segment(picture(2), clicks(2))
        with pytest.raises(NotFoundError, match="image_id: got .*; send image_bytes again"):
            client.segment(first.image_id, clicks(2))
        again = client.segment(picture(1), clicks(2))
        assert not again.cached
        assert_same(again, first)
        metrics = read_metrics(gateway)
    assert metrics["cpcsam_cache_evictions_total", frozenset()] == 2
    assert 0 < metrics["cpcsam_cache_bytes", frozenset()] <= 300_000
