"""Segmentation by prompts through the gateway and the real Triton."""

from __future__ import annotations

import hashlib
import io
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tritonclient.grpc import InferenceServerClient

from cpcsam.client import MaskSelection, Prompt, SegmentationClient, encode_image
from cpcsam.client.results import SegmentResult
from cpcsam.errors import ContractError
from cpcsam.grpc_errors import NotFoundError
from serving.gateway.limits import Limits
from serving.gateway.run import gateway_in_background
from serving.gateway.server import Gateway, GatewayConfig
from serving.triton.launch import TritonServer
from tests.integration.gateway.asking import (
    HEIGHT,
    WIDTH,
    assert_same,
    clicks,
    picture,
    read_metrics,
)
from tests.support.servers.triton_calls import wait_until_counted

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


def encoder_runs(triton: TritonServer) -> int:
    """Return the number of images that Triton's encoder has processed, in batches of any size."""
    with InferenceServerClient(triton.grpc_url) as client:
        wait_until_counted(client)
        (model,) = client.get_inference_statistics("image_encoder").model_stats
        return int(model.inference_count)


@pytest.mark.usefixtures("without_probes")
def test_segment_of_a_repeated_image_encodes_and_sends_it_once(
    gateway: Gateway, client: SegmentationClient, triton: TritonServer
) -> None:
    image, before = encode_image(picture(77)), encoder_runs(triton)
    fresh = client.segment(image, clicks(20))
    again = client.segment(image, clicks(20))
    named = client.segment(fresh.image_id, clicks(20))
    assert encoder_runs(triton) == before + 1
    assert [result.cached for result in (fresh, again, named)] == [False, True, True]
    assert fresh.image_id == again.image_id == hashlib.sha256(image).hexdigest()
    assert_same(again, fresh)
    assert_same(named, fresh)
    with pytest.raises(ContractError, match=r"got \(100, 1\), expected 0 <= x < 100"):
        client.segment(fresh.image_id, [Prompt.click(WIDTH, 1)])


@pytest.mark.usefixtures("without_probes")
def test_segment_by_concurrent_equal_requests_encodes_once(
    gateway: Gateway, triton: TritonServer
) -> None:
    image, before = encode_image(picture(78)), encoder_runs(triton)

    def segment(seed: int) -> SegmentResult:
        with SegmentationClient(gateway.address) as mine:
            return mine.segment(image, clicks(3, seed))

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(segment, range(8)))
    for seed, result in enumerate(together):
        assert_same(result, segment(seed))
    assert encoder_runs(triton) == before + 1


def test_segment_of_an_evicted_image_sends_it_again(
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
