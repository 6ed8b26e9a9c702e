"""The gateway in front of the real Triton answers every form of question."""

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
