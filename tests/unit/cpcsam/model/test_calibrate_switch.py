"""The switch of CaPL: on, it changes no bit; off, the model computes what it does without CaPL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cpcsam.artifacts.manifest import MANIFEST_NAME, publish, read_manifest
from cpcsam.contract import calibrates_of
from cpcsam.model.base_checkpoint import MODEL_FILE
from cpcsam.model.capl import FULL_CAPL, CaplConfig
from cpcsam.model.fusion import FusedCpcSam, fuse
from cpcsam.model.run_checkpoint import load_merged, save_merged
from cpcsam.model.sam import CpcSam
from export.graphs.modules import draw_prompts
from tests.support.model_factory import noisy_cpcsam, noisy_sam

pytestmark = pytest.mark.usefixtures("two_blocks")

CONFIGS = [
    FULL_CAPL,
    replace(FULL_CAPL, entity=False),
    replace(FULL_CAPL, task=False),
    replace(FULL_CAPL, moves_points=False),
    replace(FULL_CAPL, image_conditioned=False),
]
NAMES = [
    "calibrated_coords",
    "sparse_embeddings",
    "dense_embeddings",
    "low_res_masks",
    "iou_predictions",
    "low_res_masks with mask",
    "iou_predictions with mask",
]
FORMS: list[Callable[[CpcSam], CpcSam]] = [lambda model: model, fuse]


def prompts(batch: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    drawn = draw_prompts(256, batch, 4, 4, generator)
    return {**drawn, "image_embeddings": torch.randn(batch, 256, 16, 16, generator=generator)}


@torch.no_grad()
def outputs(model: CpcSam, given: dict[str, Tensor], calibrate: Tensor | None) -> dict[str, Tensor]:
    """All that the graphs tell of prompts, without and with a mask."""
    embeddings = given["image_embeddings"]
    sparse, token_mask, places = model.calibrate_prompts(
        embeddings, given["point_coords"], given["point_labels"], calibrate
    )
    dense = model.encode_masks(given["mask_input"], calibrate)
    masks = model.decode_masks(embeddings, sparse, token_mask, calibrate=calibrate)
    refined = model.decode_masks(embeddings, sparse, token_mask, dense, calibrate=calibrate)
    return dict(zip(NAMES, (places, sparse, dense, *masks, *refined), strict=True))


@cache
def outputs_without_capl() -> dict[str, Tensor]:
    return outputs(noisy_sam(), prompts(), None)


def switch(*values: float) -> Tensor:
    return torch.tensor(values).unsqueeze(1)


@pytest.mark.parametrize("form", FORMS, ids=["explicit", "fused"])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_switch_on_changes_no_bit(config: CaplConfig, form: Callable[[CpcSam], CpcSam]) -> None:
    model = form(noisy_cpcsam(config=config))
    plain, on = (outputs(model, prompts(), calibrate) for calibrate in (None, switch(1, 1, 1)))
    for name, expected in plain.items():
        assert torch.equal(on[name], expected), name


@pytest.mark.parametrize("form", FORMS, ids=["explicit", "fused"])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_switch_off_equals_the_model_without_capl(
    config: CaplConfig, form: Callable[[CpcSam], CpcSam]
) -> None:
    model = form(noisy_cpcsam(config=config))
    off = outputs(model, prompts(), switch(0, 0, 0))
    for name, expected in outputs_without_capl().items():
        difference = (off[name] - expected).abs().max() / expected.abs().max()
        assert difference <= 1e-5, name
    calibrated = outputs(model, prompts(), None)["low_res_masks"]
    assert (calibrated - off["low_res_masks"]).abs().max() > 1e-2 * calibrated.abs().max()


def test_images_of_a_batch_are_switched_each_on_its_own() -> None:
    model = fuse(noisy_cpcsam())
    together = outputs(model, prompts(), switch(1, 0, 1))
    for index, value in enumerate((1, 0, 1)):
        alone = {name: tensor[index : index + 1] for name, tensor in prompts().items()}
        for name, expected in outputs(model, alone, switch(value)).items():
            assert torch.allclose(together[name][index], expected[0], rtol=1e-4, atol=1e-4), name


def test_point_calibration_moves_first_clicks_and_boxes_and_tells_where() -> None:
    model = fuse(noisy_cpcsam())
    embeddings = prompts(1)["image_embeddings"]
    coords = torch.tensor([[[[40.0, 50.0], [60.0, 70.0]], [[30.0, 40.0], [90.0, 95.0]]]])
    labels = torch.tensor([[[1, 1], [2, 3]]], dtype=torch.int32)
    _, _, places = model.calibrate_prompts(embeddings, coords, labels, switch(1))
    moved = (places - coords).abs().amax(-1)[0] > 0.1
    assert moved.tolist() == [[True, False], [True, True]]
    _, _, given = model.calibrate_prompts(embeddings, coords, labels, switch(0))
    assert torch.equal(given, coords)


@pytest.mark.parametrize("config", [*CONFIGS, None], ids=str)
def test_merged_model_keeps_its_switch(config: CaplConfig | None, tmp_path: Path) -> None:
    fused = fuse(noisy_sam() if config is None else noisy_cpcsam(config=config))
    assert fused.calibrates == (config is not None)
    save_merged(fused, tmp_path / "merged", parents={})
    loaded = load_merged(tmp_path / "merged")
    assert loaded.calibrates == fused.calibrates
    found, expected = (outputs(model, prompts(), switch(0, 0, 0)) for model in (loaded, fused))
    assert all(torch.equal(found[name], expected[name]) for name in NAMES)


def merged_before_the_switch(path: Path, model: FusedCpcSam) -> Path:
    """An artifact as it was written before "no mask" was kept."""
    save_merged(model, path / "new", parents={})
    state = load_file(path / "new" / MODEL_FILE)
    del state["given_no_mask_embed"]
    config = read_manifest(path / "new").config
    with publish(path / "old", "merged", parents={}, config=config) as staging:
        save_file(state, staging / MODEL_FILE)
    assert (path / "old" / MANIFEST_NAME).is_file()
    return path / "old"


def test_model_merged_before_the_switch_calibrates_as_ever(tmp_path: Path) -> None:
    fused = fuse(noisy_cpcsam())
    loaded = load_merged(merged_before_the_switch(tmp_path, fused))
    assert not loaded.calibrates
    found, expected = (outputs(model, prompts(), None) for model in (loaded, fused))
    assert all(torch.equal(found[name], expected[name]) for name in NAMES)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"capl": None, "calibrates": False}, False),
        ({"capl": {}, "calibrates": True}, True),
        ({"capl": None}, False),
        ({"capl": {}}, None),
        ({"capl": {}, "calibrates": False}, None),
        ({}, None),
    ],
)
def test_manifest_tells_whether_its_graphs_calibrate(
    config: dict[str, object], expected: bool | None
) -> None:
    assert calibrates_of(config) is expected
