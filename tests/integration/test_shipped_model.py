"""Shipped base, exported and served by Triton, compared with torch."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from cpcsam import CpcSamPredictor
from cpcsam.client import ImageLike, Intensity, Prompt, ReadOptions, SegmentationClient
from cpcsam.errors import ContractError
from demo.scene import load_scene
from serving.gateway.config import GatewayConfig
from serving.gateway.run import gateway_in_background
from serving.triton.launch import TritonServer
from tests.support.paths import ROOT
from training.data.sample import Sample, entity_labels, read_pair
from training.evaluation.one_click import iou_score

BASE = ROOT / "weights/vit_t"
CLICKS = [(62.0, 76.0), (20.0, 30.0), (100.0, 40.0), (64.0, 10.0), (30.0, 110.0)]


@pytest.fixture(scope="module")
def client(shipped: TritonServer, rare_probes: None) -> Iterator[SegmentationClient]:
    """A client of the gateway over the real Triton, which serves the exported base."""
    config = GatewayConfig(triton=shipped.grpc_url, port=0, metrics_port=0)
    with (
        gateway_in_background(config) as gateway,
        SegmentationClient(gateway.address) as connected,
    ):
        yield connected


@pytest.fixture(scope="module")
def nuclei() -> np.ndarray:
    with Image.open(ROOT / "docs/images/nuclei.png") as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("crop", [(128, 128), (128, 90), (71, 128)], ids=str)
def test_service_equals_torch(
    client: SegmentationClient, nuclei: np.ndarray, crop: tuple[int, int]
) -> None:
    image = np.ascontiguousarray(nuclei[: crop[0], : crop[1]])
    prompt = Prompt(((60.0, 40.0), (10.0, 60.0)), (1, 0))
    answer = client.segment(image, [prompt]).masks[0][0]
    predictor = CpcSamPredictor.from_pretrained(BASE)
    predictor.set_image(image)
    points = {"point_coords": prompt.point_coords, "point_labels": prompt.point_labels}
    (mask,), (score,), _ = predictor.predict(**points, multimask_output=False)
    assert mask.any()
    assert iou_score(answer.array, mask) >= 0.999
    assert answer.score == pytest.approx(score, abs=1e-4)


def test_service_with_concurrent_requests_returns_equal_responses(
    client: SegmentationClient, nuclei: np.ndarray
) -> None:
    """Padding, buckets, splitting and shared batches do not change the results."""
    prompts = [Prompt.click(*click) for click in CLICKS]
    mixed = Prompt(((62.0, 76.0), (5.0, 5.0)), (1, 0), box=(40.0, 60.0, 85.0, 100.0))
    many = [*prompts, mixed] * 4
    mirrored = np.ascontiguousarray(nuclei[:, ::-1])
    with ThreadPoolExecutor(6) as pool:
        crowds = [pool.submit(client.segment, nuclei, many) for _ in range(3)]
        others = [pool.submit(client.segment, mirrored, prompts[:2]) for _ in range(3)]
        together = [future.result() for future in crowds]
        for future in others:
            assert future.result().masks[0][0].area != together[0].masks[0][0].area
    for index, prompt in enumerate([*prompts, mixed]):
        alone = client.segment(nuclei, [prompt]).masks[0][0]
        for crowd in together:
            for repeat in range(4):
                found = crowd.masks[repeat * 6 + index][0]
                assert iou_score(found.array, alone.array) >= 0.999
                assert found.score == pytest.approx(alone.score, abs=1e-4)


def mean_dice(
    client: SegmentationClient, image: ImageLike, sample: Sample, **options: Any
) -> float:
    """Mean Dice of clicks on nuclei of the right half, shown in tiles."""
    labels = [label for label in entity_labels(sample.instances[:, 256:], 60)][:16]
    clicks = []
    for label in labels:
        rows, columns = np.nonzero(sample.instances == label)
        middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
        clicks.append(Prompt.click(float(columns[middle]), float(rows[middle])))
    result = client.segment(image, clicks, tile_size=128, **options)
    scores = []
    for label, (mask,) in zip(labels, result.masks, strict=True):
        entity = sample.instances == label
        scores.append(2 * (mask.array & entity).sum() / (mask.array.sum() + entity.sum()))
    return float(np.mean(scores))


def test_service_scores_16_bits_equally_as_trained_on_as_file_and_as_array(
    client: SegmentationClient, tmp_path: Path
) -> None:
    scene = load_scene(BASE)
    sample = read_pair(scene.image_path, scene.instances_path)
    raw = tifffile.imread(scene.image_path)
    assert raw.dtype == np.uint16
    expected = mean_dice(client, sample.image, sample)
    assert expected > 0.8
    stack = tmp_path / "stack.tif"
    planes = np.stack([np.zeros_like(raw), raw])
    tifffile.imwrite(stack, planes, photometric="minisblack")
    for image, options in (
        (scene.image_path, {}),
        (raw, {}),
        (raw.astype(np.float32) / 7, {}),
        (stack, {"read_options": ReadOptions(page=1)}),
        (sample.image, {"read_options": ReadOptions(channels=(2,))}),
    ):
        assert mean_dice(client, image, sample, **options) == pytest.approx(expected, abs=0.005)
    window = {"read_options": ReadOptions(intensity=Intensity("range", 0, 65_535))}
    assert mean_dice(client, raw, sample, **window) < expected - 0.05, "nearly black"
    warnings = client.segment(stack, [Prompt.click(9, 9)]).warnings
    assert any(text.startswith("page: got 2 pages, read the first") for text in warnings)
    with pytest.raises(ContractError, match="page: got 2, expected 0 to 1"):
        client.segment(stack, [Prompt.click(9, 9)], read_options=ReadOptions(page=2))


def test_model_without_capl_ignores_the_switch_of_the_calibration(
    client: SegmentationClient, nuclei: np.ndarray
) -> None:
    prompt = Prompt.click(*CLICKS[0])
    given, plain = (
        client.segment(nuclei, [prompt], calibrate=calibrate) for calibrate in (True, False)
    )
    assert given.masks == plain.masks
    assert given.calibrated_prompts == plain.calibrated_prompts == (None,)
