"""Segmentation by prompts through the gateway and the real Triton."""

from __future__ import annotations

import io
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpcsam.client import MaskSelection, Prompt, SegmentationClient
from cpcsam.client.results import SegmentResult
from serving.gateway.server import Gateway
from tests.integration.gateway.asking import HEIGHT, WIDTH, assert_same, clicks, picture

pytestmark = pytest.mark.triton


@pytest.mark.parametrize("count", [1, 3, 20])
@pytest.mark.parametrize("selection", MaskSelection)
def test_segment_returns_masks_of_every_prompt(
    client: SegmentationClient, count: int, selection: MaskSelection
) -> None:
    prompts = clicks(count)
    result = client.segment(picture(), prompts, mask_selection=selection, request_id="r-1")
    assert (result.request_id, result.original_size) == ("r-1", (HEIGHT, WIDTH))
    assert (result.model_name, result.model_version) == ("segment", "1")
    assert result.prompts == tuple(prompts)
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


def test_segment_with_best_returns_the_best_of_all(client: SegmentationClient) -> None:
    image, prompts = picture(), clicks(3)
    best = client.segment(image, prompts, mask_selection=MaskSelection.BEST)
    every = client.segment(image, prompts, mask_selection=MaskSelection.ALL)
    for (chosen,), three in zip(best.masks, every.masks, strict=True):
        highest = max(three, key=lambda mask: mask.score)
        assert chosen.counts == highest.counts
        assert chosen.score == pytest.approx(highest.score, rel=1e-4)


def test_segment_of_many_prompts_equals_single_ones(client: SegmentationClient) -> None:
    image, prompts = picture(1), clicks(36, seed=1)
    together = client.segment(image, prompts, mask_selection=MaskSelection.ALL)
    alone = [
        client.segment(image, [prompt], mask_selection=MaskSelection.ALL) for prompt in prompts
    ]
    scores = {round(result.masks[0][0].score, 6) for result in alone}
    assert len(scores) > 20, "the results must depend on the prompts"
    for masks, single in zip(together.masks, alone, strict=True):
        assert_same(SegmentResult(**{**vars(single), "masks": (masks,)}), single)


def test_segment_by_concurrent_clients_equals_single_ones(gateway: Gateway) -> None:
    def segment(seed: int) -> SegmentResult:
        with SegmentationClient(gateway.address) as mine:
            image = picture(seed, height=40 + seed, width=90 - seed)
            return mine.segment(image, [Prompt.click(5 + seed, 6)] * (1 + 3 * seed))

    alone = [segment(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        for result, expected in zip(pool.map(segment, range(6)), alone, strict=True):
            assert_same(result, expected)


def test_segment_accepts_every_form_of_image(client: SegmentationClient, tmp_path: Path) -> None:
    image, prompts = picture(), clicks(2)
    file = tmp_path / "image.png"
    Image.fromarray(image).save(file)
    expected = client.segment(image, prompts)
    for form in (Image.fromarray(image), file, str(file), file.read_bytes()):
        assert_same(client.segment(form, prompts), expected)


def test_segment_of_a_rotated_photo_uses_its_orientation(client: SegmentationClient) -> None:
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
