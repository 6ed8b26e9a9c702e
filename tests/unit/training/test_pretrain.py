from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cpcsam.config import from_dict
from cpcsam.contract import PointLabel
from cpcsam.errors import ConfigError, DataError, TrainingError
from tests.support.dataset_factory import drawings
from tests.support.training_factory import TINY_BATCH, tiny_pretraining
from training.data.prompt_sampling import PromptMix
from training.pretraining.config import PretrainBatchConfig, PretrainConfig, PretrainData
from training.pretraining.data import PretrainBatch, PretrainBatches, load_drawings, load_images
from training.pretraining.loss import add_corrections, mask_losses
from training.pretraining.train_state import learning_rate, new_pretrain_state


def test_a_step_changes_every_part_of_the_model(tmp_path: Path) -> None:
    config = tiny_pretraining(tmp_path, "parts", lr=1e-3, correction_every=1, warmup_steps=0)
    state = new_pretrain_state(config)
    before = {name: value.clone() for name, value in state.model.named_parameters()}
    batches = PretrainBatches([], 256, TINY_BATCH, seed=0, steps=2)
    for batch in batches:
        state.train_step(batch, config)
        if state.step == 2:
            break
    still = {n for n, value in state.model.named_parameters() if torch.equal(before[n], value)}
    seldom_chosen = ("point_embeddings", "no_mask_embed", "output_hypernetworks_mlps")
    assert not {name for name in still if not any(part in name for part in seldom_chosen)}
    assert "sam.mask_decoder.output_hypernetworks_mlps.0.layers.0.weight" not in still


def test_scenes_of_drawings_are_streamed_and_repeatable(tmp_path: Path) -> None:
    drawings(tmp_path)
    found = load_drawings(PretrainData(vector_art=tmp_path))
    assert found is not None and set(found) < {"animals", "food", "people", "tools"}
    config = replace(TINY_BATCH, vector_art_share=1.0)
    batches = [PretrainBatches([], 256, config, seed=0, steps=3, drawings=found) for _ in range(2)]
    for step in (2, 0):
        first, again = (each[step] for each in batches)
        assert all(torch.equal(a, b) for a, b in zip(*map(columns, (first, again)), strict=True))
        assert first.masks.any((-1, -2)).all()
    plain = PretrainBatches([], 256, config, seed=0, steps=1)
    assert not torch.equal(plain[0].image, batches[0][0].image)


def columns(batch: PretrainBatch) -> list[torch.Tensor]:
    return list(vars(batch).values())


def test_recipe_without_drawings_has_no_keys_of_theirs(tmp_path: Path) -> None:
    recipe = PretrainConfig().recipe()
    assert "vector_art" not in recipe["data"] and "vector_art_share" not in recipe["batch"]
    drawn = PretrainConfig(data=PretrainData(vector_art=tmp_path)).recipe()
    assert drawn["batch"]["vector_art_share"] == 0.3 and "vector_art" not in drawn["data"]


def test_held_out_drawings_are_scored(tmp_path: Path) -> None:
    drawings(tmp_path, "animals food people tools unsorted", 4)
    data = PretrainData(vector_art=tmp_path, val_scenes=1)
    plain, scored = (load_images(each)[1] for each in (replace(data, vector_art=None), data))
    assert len(plain) == 4 and len(scored) == 8
    classes = {name for window in scored[4:] for name in window.class_names}
    assert classes == {"unsorted"}


def test_drawings_without_a_base_class_are_one_error(tmp_path: Path) -> None:
    drawings(tmp_path, "unsorted", 2)
    with pytest.raises(DataError, match="no drawing of a base class"):
        load_drawings(PretrainData(vector_art=tmp_path))


def test_non_finite_loss_stops_the_run(tmp_path: Path) -> None:
    config = tiny_pretraining(tmp_path, "nan")
    state = new_pretrain_state(config)
    with torch.no_grad():
        state.model.sam.mask_decoder.iou_token.weight.fill_(float("nan"))
    batch = PretrainBatches([], 256, TINY_BATCH, seed=0, steps=1)[0]
    with pytest.raises(TrainingError, match="step 0: got a non-finite loss"):
        state.train_step(batch, config)


def test_learning_rate_rises_then_falls_to_zero() -> None:
    config = PretrainConfig(steps=100, warmup_steps=10, lr=1.0)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert rates[100] == pytest.approx(0)


def test_learning_rate_with_a_time_limit_follows_the_clock(tmp_path: Path) -> None:
    config = tiny_pretraining(tmp_path, "clock", steps=1000, warmup_steps=10, max_minutes=1.0)
    state = new_pretrain_state(config)
    batch = PretrainBatches([], 256, TINY_BATCH, seed=0, steps=1)[0]
    state.train_step(batch, config, progress=0.5)
    assert state.optimizer.param_groups[0]["lr"] == learning_rate(config, 500)
    assert state.step == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_minutes", 0),
        ("steps", 0),
        ("seed", -1),
        ("lr", 0),
        ("ema", 1),
        ("data.val_scenes", 0),
        ("batch.images", 0),
        ("batch.vector_art_share", 1.5),
        ("batch.augment.colour", -1),
    ],
)
def test_impossible_numbers_are_refused(key: str, value: float) -> None:
    *parents, name = key.split(".")
    values: dict[str, object] = {name: value}
    for parent in reversed(parents):
        values = {parent: values}
    with pytest.raises(ConfigError, match=rf"{key}: got {value}"):
        from_dict(PretrainConfig, values)


def test_recipe_leaves_out_what_does_not_change_the_weights() -> None:
    recipe = PretrainConfig(workers=3).recipe()
    assert not {"workers", "out", "run", "init"} & recipe.keys()


def test_mask_losses_by_hand() -> None:
    targets = torch.tensor([[1.0, 0.0]]).reshape(1, 1, 1, 1, 2)
    flat = mask_losses(torch.zeros(1, 1, 1, 1, 2), targets)
    focal = 0.25 * torch.log(torch.tensor(2.0))
    dice = 1 - (2 * 0.5 + 1) / (1 + 1 + 1)
    assert flat.item() == pytest.approx(20 * focal.item() + dice)
    sure = mask_losses(20 * (2 * targets - 1), targets)
    assert sure.item() < 1e-3


def test_corrections_point_at_the_error() -> None:
    masks = torch.zeros(1, 2, 64, 64, dtype=torch.bool)
    masks[..., 16:48, 16:48] = True
    predicted = torch.full((1, 2, 16, 16), -1.0)
    predicted[0, 0, 4:12, 4:8] = 1.0
    predicted[0, 1, 4:12, 4:16] = 1.0
    labels = torch.full((1, 2, 4), int(PointLabel.EMPTY), dtype=torch.int32)
    labels[..., 0] = PointLabel.FOREGROUND
    batch = PretrainBatch(
        torch.zeros(1, 3, 64, 64), masks[:, 0].int(), masks, torch.zeros(1, 2, 4, 2), labels
    )
    coords, corrected = add_corrections(batch, predicted)
    assert corrected[0, 0].tolist() == [1, 1, -1, -1]
    assert corrected[0, 1].tolist() == [1, 0, -1, -1]
    assert coords[0, 0, 1, 0] >= 28
    assert coords[0, 1, 1, 0] >= 46


def test_every_batch_prompts_entities_that_are_there() -> None:
    config = PretrainBatchConfig(images=3, prompts=4, synthetic_scenes=3, prompt_mix=PromptMix())
    batches = PretrainBatches([], 128, config, seed=1, steps=3)
    batch, again = batches[2], batches[2]
    assert batch.masks.shape == (3, 4, 128, 128)
    assert (batch.masks.sum((-2, -1)) >= config.min_area).all()
    assert torch.equal(batch.point_coords, again.point_coords)
    assert not torch.equal(batch.point_coords, batches[1].point_coords)
