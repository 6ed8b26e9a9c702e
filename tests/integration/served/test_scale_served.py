"""A model that declares windows of 64 pixels, served by the real Triton, and in Python."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

from cpcsam import CpcSamPredictor
from cpcsam.artifacts.manifest import publish, read_manifest
from cpcsam.client import (
    Everything,
    Example,
    MaskSelection,
    Prompt,
    SegmentationClient,
    encode_image,
)
from cpcsam.client.results import SegmentResult
from cpcsam.grpc_errors import LimitError
from cpcsam.scale import SCALE, Scale
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from export.triton_repository.publishing import build_repository
from serving.gateway.config import GatewayConfig
from serving.gateway.limits import Limits
from serving.gateway.run import gateway_in_background
from serving.gateway.server import Gateway
from serving.triton.launch import launch_triton
from tests.support.paths import ROOT
from training.evaluation.one_click import iou_score

pytestmark = pytest.mark.triton

WINDOW = Scale(64, 1.5)
PROMPTS = [
    Prompt.click(62, 76),
    Prompt.click(20, 30),
    Prompt(((60, 40), (10, 60)), (1, 0)),
    Prompt(box=(40, 60, 85, 100)),
    Prompt(box=(3, 3, 125, 120)),
]
FEW = Everything(points_per_side=4, min_iou=0.4, min_stability=0.4)
MANY = Everything(points_per_side=9, min_iou=0.4, min_stability=0.4)
"""So many clicks that nine tiles of 64 pixels exceed the gateway's limit; one image does not."""


@pytest.fixture(scope="module")
def windowed(shipped_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped base's graphs, with a scale in their manifest."""
    out, source = tmp_path_factory.mktemp("windowed") / "onnx", shipped_build / "onnx"
    manifest = read_manifest(source, "onnx")
    config = {**manifest.config, SCALE: WINDOW.record()}
    with publish(out, "onnx", parents=manifest.parents, config=config) as staging:
        for name in manifest.files:
            shutil.copyfile(source / name, staging / name)
    return out


@pytest.fixture(scope="module")
def gateway(windowed: Path, rare_probes: None) -> Iterator[Gateway]:
    repository = build_repository(windowed, windowed.parent / "repository")
    with launch_triton(repository) as triton:
        config = GatewayConfig(
            triton=triton.grpc_url,
            port=0,
            metrics_port=0,
            classes=windowed.parent / "classes",
            limits=Limits(max_clicks=600),
        )
        with gateway_in_background(config) as running:
            yield running


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[SegmentationClient]:
    with SegmentationClient(gateway.address, timeout_s=120) as connected:
        yield connected


@pytest.fixture(scope="module")
def predictor(shipped_build: Path, windowed: Path) -> CpcSamPredictor:
    """The same model in torch, with the scale that the graphs declare."""
    scale = CpcSamPredictor.from_pretrained(windowed).scale
    assert scale == WINDOW
    backend = CpcSamPredictor.from_pretrained(shipped_build / "merged").backend
    return CpcSamPredictor(backend, scale)


@pytest.fixture(scope="module")
def nuclei() -> np.ndarray:
    """A photograph of 128 x 128 pixels."""
    with Image.open(ROOT / "docs/images/nuclei.png") as image:
        return np.asarray(image.convert("RGB"))


def shape_of(result: SegmentResult) -> list[tuple[str, float]]:
    return [(mask.counts, mask.score) for _, _, mask in result.each()]


def test_describe_tells_the_scale(client: SegmentationClient) -> None:
    description = client.describe()
    assert (description.window, description.spread) == (64, 1.5)


def test_prompts_by_default_are_answered_in_tiles_of_the_window(
    client: SegmentationClient, nuclei: np.ndarray
) -> None:
    default = client.segment(nuclei, PROMPTS, low_res_masks=True)
    explicit = client.segment(nuclei, PROMPTS, low_res_masks=True, tile_size=64)
    assert shape_of(default) == shape_of(explicit)
    assert default.warnings == explicit.warnings == ()
    parts = [mask.low_res_mask.part for _, _, mask in default.each() if mask.low_res_mask]
    assert (32, 32, 96, 96) in parts and parts[-1] is None
    small = np.ascontiguousarray(nuclei[:60, :50])
    assert client.segment(small, PROMPTS[1:2]).warnings == ()


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("tile_size", [None, 0, 96])
def test_predictor_equals_the_service(
    client: SegmentationClient,
    predictor: CpcSamPredictor,
    nuclei: np.ndarray,
    tile_size: int | None,
    multimask: bool,
) -> None:
    selection = MaskSelection.ALL if multimask else MaskSelection.SINGLE
    served = client.segment(nuclei, PROMPTS, tile_size=tile_size, mask_selection=selection)
    predictor.set_image(nuclei, tile_size=tile_size)
    for prompt, answers in zip(PROMPTS, served.masks, strict=True):
        masks, scores, _ = predictor.predict(
            prompt.point_coords or None,
            prompt.point_labels or None,
            prompt.box,
            multimask_output=multimask,
        )
        for answer, mask, score in zip(answers, masks, scores, strict=True):
            assert iou_score(answer.array, mask) >= 0.999
            assert answer.score == pytest.approx(score, abs=1e-4)


def test_an_explicit_0_shows_the_whole_image_and_is_warned_of(
    client: SegmentationClient, nuclei: np.ndarray
) -> None:
    whole = client.segment(nuclei, PROMPTS, tile_size=0, low_res_masks=True)
    for _, _, mask in whole.each():
        assert mask.low_res_mask is not None and mask.low_res_mask.part is None
    assert whole.warnings == (
        "tile_size: got the whole image of 128 pixels, expected tiles of 64 pixels (34 to 120), "
        "as in training; leave it out",
    )
    assert shape_of(whole) != shape_of(client.segment(nuclei, PROMPTS))


def test_everything_by_default_takes_tiles_as_small_as_the_limits_admit(
    client: SegmentationClient, nuclei: np.ndarray
) -> None:
    few = client.segment(nuclei, everything=FEW)
    assert few.warnings == ()
    assert shape_of(few) == shape_of(client.segment(nuclei, everything=FEW, tile_size=64))
    many = client.segment(nuclei, everything=MANY)
    assert many.warnings[0].startswith("everything: got the whole image of 128 pixels, as smaller")
    assert shape_of(many) == shape_of(client.segment(nuclei, everything=MANY, tile_size=0))
    assert len(few.masks) > 5 and len(many.masks) > 5
    with pytest.raises(LimitError, match="clicks: got 729"):
        client.segment(nuclei, everything=MANY, tile_size=64)
    crops = client.segment(nuclei, everything=Everything(points_per_side=4, crop_layers=1))
    assert crops.warnings[0].startswith("everything.crop_layers: got the whole image of 128")


def test_everything_by_default_without_room_for_the_masks_of_tiles_shows_the_whole_image(
    gateway: Gateway,
    client: SegmentationClient,
    nuclei: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room = "serving.gateway.segmentation.mask_generator.MAX_MERGED_PIXELS"
    monkeypatch.setattr(room, 100)
    default = client.segment(nuclei, everything=FEW)
    assert default.warnings[0].startswith("everything: got the whole image of 128 pixels, as sm")
    assert shape_of(default) == shape_of(client.segment(nuclei, everything=FEW, tile_size=0))
    with grpc.insecure_channel(gateway.address) as channel:
        stub = pb_grpc.SegmentationStub(channel)  # type: ignore[no-untyped-call]
        everything = pb.Everything(points_per_side=4, min_iou=0.4, min_stability=0.4)
        request = pb.SegmentRequest(
            image_bytes=encode_image(nuclei), everything=everything, tile_size=64
        )
        with pytest.raises(grpc.RpcError, match="everything: got masks of") as caught:
            stub.Segment(request)
    details = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
    assert b"LIMIT" in details and b"ROOM" not in details


def test_classes_by_default_are_taught_in_tiles_of_the_window(
    gateway: Gateway, client: SegmentationClient, nuclei: np.ndarray
) -> None:
    found = client.segment(nuclei, everything=FEW)
    example = Example.of_masks(nuclei, [mask.array for _, _, mask in found.each()])
    with grpc.insecure_channel(gateway.address) as channel:
        stub = pb_grpc.SegmentationStub(channel)  # type: ignore[no-untyped-call]
        for tile_size, side, warned in ((None, 64, 0), (0, 0, 1)):
            client.add_class("nucleus", [example], tile_size=tile_size)
            assert stub.ListClasses(pb.ListClassesRequest()).tile_size == side
            warnings = client.segment(nuclei, classes=["nucleus"]).warnings
            assert len(warnings) == warned
            client.remove_class("nucleus")
    assert warnings[0].startswith("classes: got the whole image of 128 pixels, expected tiles of")
