"""Prompts as a model with CaPL took them, and its masks without CaPL, over the real Triton."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from cpcsam import CpcSamPredictor
from cpcsam.client import Everything, Prompt, SegmentationClient
from cpcsam.client.prompts import XY
from cpcsam.client.results import SegmentResult
from cpcsam.errors import ContractError
from cpcsam.grpc_errors import PreconditionError
from cpcsam.model.fusion import FusedCpcSam
from cpcsam.model.torch_backend import TorchBackend
from serving.gateway.config import GatewayConfig
from serving.gateway.run import gateway_in_background
from serving.triton.launch import TritonServer, launch_triton
from tests.integration.gateway.asking import picture
from tests.support.model_factory import noisy_sam
from tests.support.servers.gpu_ensembles import publish_gpu_ensembles

pytestmark = [pytest.mark.slow, pytest.mark.triton]

TOLERANCE = 1e-3
"""Of coordinates, in pixels, and of scores."""
IMAGE = picture(seed=3, height=120, width=200)
PROMPTS = [
    Prompt(((40, 30), (90, 60)), (1, 0)),
    Prompt(box=(20, 10, 120, 90)),
    Prompt(((61, 52),), (1,), (30.5, 20.25, 110, 99)),
]


@pytest.fixture(scope="module", params=["decoder of the CPU", "ensembles of the GPU"])
def server(
    request: pytest.FixtureRequest, calibrating: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    if "CPU" in request.param:
        yield request.getfixturevalue("calibrating_triton")
        return
    store = tmp_path_factory.mktemp("ensembles") / "store"
    with launch_triton(publish_gpu_ensembles(calibrating, store)) as ready:
        yield ready


@pytest.fixture(scope="module")
def client(server: TritonServer, rare_probes: None) -> Iterator[SegmentationClient]:
    config = GatewayConfig(triton=server.grpc_url, port=0, metrics_port=0)
    with (
        gateway_in_background(config) as gateway,
        SegmentationClient(gateway.address, timeout_s=120) as connected,
    ):
        yield connected


@cache
def in_torch(model: FusedCpcSam, prompt: Prompt, calibrate: bool) -> tuple[Prompt, float]:
    """The prompt as the model takes it, and the score of its mask."""
    predictor = CpcSamPredictor(TorchBackend(model))
    predictor.set_image(IMAGE)
    _, scores, _ = predictor.predict(
        prompt.point_coords or None,
        prompt.point_labels or None,
        prompt.box,
        multimask_output=False,
        calibrate=calibrate,
    )
    assert predictor.calibrated_prompt is not None
    points, box = predictor.calibrated_prompt
    taken = Prompt(
        tuple((float(x), float(y)) for x, y in points),
        prompt.point_labels,
        None if box is None else tuple(box.tolist()),
    )
    return taken, float(scores[0])


def places(prompt: Prompt | None) -> list[XY]:
    assert prompt is not None
    x0, y0, x1, y1 = prompt.box or (0, 0, 0, 0)
    return [*prompt.point_coords, (x0, y0), (x1, y1)]


def assert_same(mine: SegmentResult, theirs: SegmentResult) -> None:
    for (_, _, mask), (_, _, same) in zip(mine.each(), theirs.each(), strict=True):
        assert mask.score == pytest.approx(same.score, abs=TOLERANCE)
        assert (mask.array != same.array).mean() < 1e-3
    pairs = zip(mine.calibrated_prompts, theirs.calibrated_prompts, strict=True)
    for prompt, same in pairs:
        assert np.allclose(places(prompt), places(same), atol=TOLERANCE)


def test_describe_tells_that_the_model_calibrates(client: SegmentationClient) -> None:
    assert client.describe().calibrates


@pytest.mark.parametrize("cached", [False, True])
def test_calibrated_prompts_and_scores_equal_torch(
    client: SegmentationClient, calibrating_model: FusedCpcSam, cached: bool
) -> None:
    for calibrate in (True, False):
        result = client.segment(IMAGE, PROMPTS, calibrate=calibrate)
        for index, prompt in enumerate(PROMPTS):
            expected, score = in_torch(calibrating_model, prompt, calibrate)
            told = result.calibrated_prompts[index]
            assert told is not None and told.point_labels == prompt.point_labels
            assert np.allclose(places(told), places(expected), atol=TOLERANCE)
            assert result.masks[index][0].score == pytest.approx(score, abs=TOLERANCE)
            if not calibrate:
                assert told == prompt
            moved = np.abs(np.subtract(places(told), places(prompt))).max()
            assert (moved > 1) == calibrate


def test_masks_without_calibration_equal_the_model_without_capl(client: SegmentationClient) -> None:
    predictor = CpcSamPredictor(TorchBackend(noisy_sam()))
    predictor.set_image(IMAGE)
    result = client.segment(IMAGE, PROMPTS, calibrate=False)
    for prompt, (mask,) in zip(PROMPTS, result.masks, strict=True):
        masks, scores, _ = predictor.predict(
            prompt.point_coords or None,
            prompt.point_labels or None,
            prompt.box,
            multimask_output=False,
        )
        assert mask.score == pytest.approx(float(scores[0]), abs=TOLERANCE)
        assert (mask.array != masks[0]).mean() < 1e-3
    assert predictor.calibrated_prompt is None


def test_requests_with_and_without_calibration_in_company_equal_them_alone(
    client: SegmentationClient,
) -> None:
    def ask(number: int) -> SegmentResult:
        return client.segment(IMAGE, PROMPTS[number // 2 % 3 :], calibrate=number % 2 == 0)

    alone = [ask(number) for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        for number, result in enumerate(pool.map(ask, range(12))):
            assert_same(result, alone[number % 6])


def test_calibrated_prompts_of_tiles_and_masks_lie_in_the_image(client: SegmentationClient) -> None:
    given = Prompt(((150, 90),), (1,))
    whole = client.segment(IMAGE, [given], low_res_masks=True, calibrate=False)
    assert whole.calibrated_prompts == (given,)
    tiled = client.segment(IMAGE, [given], tile_size=64, calibrate=False)
    assert tiled.calibrated_prompts == (given,)
    refined = Prompt(((150, 90),), (1,), mask_input=whole.masks[0][0].low_res_mask)
    assert client.segment(IMAGE, [refined], calibrate=False).calibrated_prompts == (given,)
    mask = np.zeros(IMAGE.shape[:2], bool)
    mask[20:60, 30:90] = True
    (alone,) = client.segment(IMAGE, [Prompt(mask=mask)], calibrate=False).calibrated_prompts
    assert alone == Prompt(box=(30, 20, 90, 60))


def test_everything_has_no_calibrated_prompt_and_no_switch(client: SegmentationClient) -> None:
    grid = Everything(points_per_side=2, min_iou=0.0, min_stability=0.0)
    with pytest.raises(ContractError, match="without_calibration: got a request without prompts"):
        client.segment(IMAGE, everything=grid, calibrate=False)
    result = client.segment(IMAGE, everything=grid)
    assert set(result.calibrated_prompts) <= {None}


def test_repository_published_before_the_switch_serves_and_refuses_it(triton: TritonServer) -> None:
    config = GatewayConfig(triton=triton.grpc_url, port=0, metrics_port=0)
    with (
        gateway_in_background(config) as gateway,
        SegmentationClient(gateway.address, timeout_s=60) as client,
    ):
        assert not client.describe().calibrates
        assert client.segment(IMAGE, PROMPTS).calibrated_prompts == (None,) * 3
        with pytest.raises(PreconditionError, match="publish the model again"):
            client.segment(IMAGE, PROMPTS, calibrate=False)
