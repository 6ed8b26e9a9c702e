"""Both clients and the command line against the gateway with the shipped base."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from cpcsam.cli.main import main as cli
from cpcsam.client import (
    Everything,
    MaskFormat,
    Prompt,
    Question,
    SegmentationClient,
    SegmentResult,
)
from cpcsam.client.async_client import AsyncSegmentationClient
from cpcsam.errors import ContractError
from cpcsam.grpc_errors import PreconditionError
from serving.gateway.limits import Limits
from serving.gateway.run import gateway_in_background
from serving.gateway.server import Gateway, GatewayConfig
from serving.triton.launch import TritonServer
from tests.support.paths import ROOT

pytestmark = pytest.mark.triton

NUCLEI = ROOT / "docs/images/nuclei.png"
CLICK = [Prompt.click(62, 76)]
GRID = Everything(points_per_side=12, min_iou=0.4, min_stability=0.4)
KINDS = pytest.mark.parametrize("kind", [SegmentationClient, AsyncSegmentationClient])


@pytest.fixture(scope="module")
def gateway(shipped: TritonServer, rare_probes: None) -> Iterator[Gateway]:
    config = GatewayConfig(
        triton=shipped.grpc_url, port=0, metrics_port=0, limits=Limits(max_clicks=600)
    )
    with gateway_in_background(config) as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[SegmentationClient]:
    with SegmentationClient(gateway.address, timeout_s=120) as connected:
        yield connected


def iou(mask: np.ndarray, other: np.ndarray) -> float:
    return float((mask & other).sum() / max((mask | other).sum(), 1))


def test_add_class_by_text_without_towers_is_refused_by_name(client: SegmentationClient) -> None:
    assert client.describe().clip == ""
    with pytest.raises(PreconditionError, match=r"without CLIP's towers, .* publish --clip"):
        client.add_class("cell", texts=["cell"])


def test_segment_in_every_mask_format_returns_the_same_mask(client: SegmentationClient) -> None:
    masks = {
        form: client.segment(NUCLEI, CLICK, mask_format=form).masks[0][0] for form in MaskFormat
    }
    expected = masks[MaskFormat.COCO_RLE]
    assert expected.array.any() and expected.area == expected.array.sum()
    for form in (MaskFormat.PNG, MaskFormat.POLYGONS):
        assert (masks[form].array == expected.array).all()
    assert masks[MaskFormat.NONE].box == expected.box
    assert masks[MaskFormat.NONE].stability == pytest.approx(expected.stability, abs=1e-4)


@pytest.mark.parametrize("tile_size", [0, 80])
def test_segment_with_returned_logits_refines_the_mask(
    client: SegmentationClient, tile_size: int
) -> None:
    description = client.describe()
    assert description.mask_prompts
    ((first,),) = client.segment(NUCLEI, CLICK, low_res_masks=True, tile_size=tile_size).masks
    assert first.low_res_mask is not None
    assert (first.low_res_mask.part is None) == (tile_size == 0)
    assert first.low_res_mask.logits.shape == (description.low_res_size,) * 2
    assert (first.low_res_mask.logits > 0).any()
    prompt = Prompt(((62, 76),), mask_input=first.low_res_mask)
    ((again,),) = client.segment(NUCLEI, [prompt], tile_size=tile_size).masks
    assert iou(again.array, first.array) > 0.7
    if tile_size == 0:
        other = Prompt(((100, 30),))
        ((plain,),) = client.segment(NUCLEI, [other]).masks
        misled = Prompt(other.point_coords, mask_input=first.low_res_mask)
        ((mixed,),) = client.segment(NUCLEI, [misled]).masks
        assert iou(plain.array, mixed.array) < 0.99, "the mask must have a say"


def test_segment_everything_with_and_without_tiles_finds_all(client: SegmentationClient) -> None:
    whole = client.segment(NUCLEI, everything=GRID)
    tiled = client.segment(
        NUCLEI,
        everything=Everything(points_per_side=5, min_iou=0.4, min_stability=0.4),
        tile_size=80,
    )
    for result in (whole, tiled):
        assert len(result.masks) > 5 and len(result.prompts) == len(result.masks)
        for _, prompt, mask in result.each():
            assert len(prompt.point_coords) == 1 and mask.area == mask.array.sum() > 0
    least = min(mask.stability for _, _, mask in whole.each())
    assert least >= 0.4


async def streamed(kind: type[Any], address: str, questions: Any) -> list[Any]:
    if kind is SegmentationClient:
        with SegmentationClient(address) as waiting:
            return list(waiting.segment_stream(questions))
    async with AsyncSegmentationClient(address) as suspending:
        return [result async for result in suspending.segment_stream(questions)]


@KINDS
async def test_stream_equals_single_calls(
    kind: type[Any], gateway: Gateway, client: SegmentationClient
) -> None:
    pixels = np.array(Image.open(NUCLEI).convert("RGB"))
    questions = [
        Question(np.roll(pixels, 7 * number, axis=1), CLICK, request_id=str(number))
        for number in range(12)
    ]
    questions[5] = Question(pixels, [Prompt.click(10_000, 1)])
    outcomes = await streamed(kind, gateway.address, iter(questions))
    assert len(outcomes) == len(questions)
    broken = outcomes.pop(5)
    assert type(broken) is ContractError and "got (10000, 1), expected 0 <= x <" in str(broken)
    for question, outcome in zip(questions[:5] + questions[6:], outcomes, strict=True):
        assert isinstance(outcome, SegmentResult) and outcome.request_id == question.request_id
        alone = client.ask(question)
        assert iou(outcome.masks[0][0].array, alone.masks[0][0].array) >= 0.999


async def test_async_client_equals_the_sync_client(
    gateway: Gateway, client: SegmentationClient
) -> None:
    async with AsyncSegmentationClient(gateway.address, timeout_s=120) as suspending:
        assert await suspending.describe() == client.describe()
        mine = await suspending.segment(NUCLEI, everything=GRID, mask_format=MaskFormat.POLYGONS)
    theirs = client.segment(NUCLEI, everything=GRID)
    assert len(mine.masks) == len(theirs.masks) > 5
    for (mask,), (other,) in zip(mine.masks, theirs.masks, strict=True):
        assert iou(mask.array, other.array) >= 0.999


def test_describe_returns_the_default_settings(client: SegmentationClient) -> None:
    description = client.describe()
    assert set(description.mask_formats) == set(MaskFormat)
    assert len(description.digest) == len(description.trained_model) == 64
    assert None not in vars(description.everything).values()
    assert None not in vars(description.class_search).values()
    assert description.limits["max_clicks"] == 600 and description.limits["stream_window"] >= 1


def test_segment_command_finds_everything_and_refines_logits(
    gateway: Gateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = ["--address", gateway.address, "--timeout", "120"]
    grid = ["--everything", "--points-per-side", "12", "--min-iou", "0.4", "--min-stability", "0.4"]
    out = tmp_path / "all"
    assert cli(["segment", str(NUCLEI), *grid, "--out", str(out), "--png", *address]) == 0
    found = COCO(str(out / "nuclei/masks.json"))
    annotations = found.loadAnns(found.getAnnIds())
    assert len(annotations) == len(list(out.glob("nuclei/masks/*.png"))) > 5
    for annotation in annotations:
        with Image.open(out / f"nuclei/masks/{annotation['id']:03}.png") as picture:
            assert (np.array(picture) == found.annToMask(annotation).astype(bool)).all()
    words = ["segment", str(NUCLEI), "--click", "62,76", *address]
    assert cli([*words, "--logits", "--polygons", "--out", str(tmp_path / "one")]) == 0
    first = json.loads((tmp_path / "one/nuclei/masks.json").read_text())["annotations"][0]
    assert first["rings"] and first["stability"] > 0
    logits = str(tmp_path / "one/nuclei/logits.npz")
    assert cli([*words, "--mask-input", logits, "--out", str(tmp_path / "two")]) == 0
    capsys.readouterr()
    assert cli(["status", "--json", *address]) == 0
    assert json.loads(capsys.readouterr().out)["limits"]["max_clicks"] == 600
