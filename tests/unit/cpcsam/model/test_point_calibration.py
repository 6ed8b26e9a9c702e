"""Point calibration: what it sees, what it moves, and how it is taught."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from cpcsam.contract import PATCH_SIZE, PointLabel
from cpcsam.errors import ConfigError
from cpcsam.model.capl import CaplConfig
from cpcsam.model.gated_points import GatedPointCalibration, PointEstimate, gate, offset_grid
from cpcsam.model.lora import LoraConfig
from cpcsam.model.point_calibration import WINDOW, PointCalibration, is_moved, sample_windows
from tests.support.model_factory import fill_with_noise, noisy_sam
from tests.support.training_factory import MINIATURE, SCALE, discs, tiny_halves, tiny_state
from training.bilevel.config import ModelConfig, OptimizerConfig
from training.bilevel.point_losses import gated_terms, point_terms
from training.bilevel.step import BilevelConfig
from training.data.batches import BatchConfig, StepBatches
from training.data.prompt_batch import PRACTICE
from training.data.prompt_sampling import accurate_points, pixel_at_edge, pixel_wrong

POINTS_ALONE = ModelConfig(lora=LoraConfig(rank=0), unfreeze=(), capl=CaplConfig())


def every_kind() -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings and prompts: clicks, off the entity first, box and clicks, the reverse, none."""
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(2, 256, 16, 16, generator=generator)
    coords = 256 * torch.rand(2, 5, 4, 2, generator=generator)
    labels = torch.tensor(
        [[1, 1, 0, -1], [0, 1, -1, -1], [2, 3, 1, 0], [1, -1, 2, 3], [-1, -1, -1, -1]]
    )
    return embeddings, coords, labels.int().expand(2, 5, 4)


def test_a_window_is_sampled_as_grid_sample_does() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(2, 7, 16, 16, generator=generator)
    centre = 300 * torch.rand(2, 3, 2, generator=generator) - 20
    reach = 40 * torch.rand(2, 3, 2, generator=generator)
    steps = torch.linspace(-1, 1, WINDOW)
    offsets = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).reshape(-1, 2)
    places = centre.unsqueeze(2) + reach.unsqueeze(2) * offsets
    grid = 2 * (places + 0.5) / (16 * PATCH_SIZE) - 1
    expected = F.grid_sample(embeddings, grid, padding_mode="border", align_corners=False)
    found = sample_windows(embeddings, centre, reach).reshape(2, 3, -1, 7)
    assert torch.allclose(found, expected.permute(0, 2, 3, 1), atol=1e-5)


FORMS = pytest.mark.parametrize("form", [PointCalibration, GatedPointCalibration])


@FORMS
def test_untrained_it_moves_nothing(form: type[PointCalibration]) -> None:
    embeddings, coords, labels = every_kind()
    assert torch.equal(form(128)(embeddings, coords, labels), coords)


@FORMS
def test_first_clicks_and_corners_are_moved_and_nothing_else(form: type[PointCalibration]) -> None:
    embeddings, coords, labels = every_kind()
    points = form(128)
    fill_with_noise(points, seed=3, scale=0.1)
    if isinstance(points, GatedPointCalibration):
        with torch.no_grad():  # half open, whatever the prompt
            for network, stays in ((points.click, 1), (points.box, 4)):
                network[-1].weight[-stays:] = 0
                network[-1].bias[-stays:] = -0.34
    moved = points(embeddings, coords, labels) != coords
    expected = torch.zeros(2, 5, 4, dtype=torch.bool)
    expected[:, 0, 0] = expected[:, 2, :2] = expected[:, 3, 2:] = True
    assert torch.equal(moved.any(-1), expected)
    assert torch.equal(is_moved(labels), expected)


@FORMS
def test_the_order_of_a_box_s_corners_does_not_matter(form: type[PointCalibration]) -> None:
    embeddings, coords, labels = every_kind()
    points = form(128)
    fill_with_noise(points, seed=3, scale=0.1)
    swap = [1, 0, 2, 3]
    there = points(embeddings, coords[:, 2:3], labels[:, 2:3])
    back = points(embeddings, coords[:, 2:3, swap], labels[:, 2:3, swap])
    assert torch.allclose(there, back[:, :, swap], atol=1e-5)


def test_accurate_points_are_the_centre_and_the_tight_box() -> None:
    mask = np.zeros((32, 32), bool)
    mask[4:9, 10:21] = True
    places = accurate_points(mask)
    assert places[PointLabel.FOREGROUND].tolist() == [15, 6]
    assert places[PointLabel.BOX_TOP_LEFT].tolist() == [10, 4]
    assert places[PointLabel.BOX_BOTTOM_RIGHT].tolist() == [21, 9]
    assert not places[[PointLabel.BACKGROUND, PointLabel.EMPTY]].any()


def test_the_loss_is_the_distance_of_what_is_moved() -> None:
    _, coords, labels = every_kind()
    there = torch.where(is_moved(labels).unsqueeze(-1), coords, 0.0)
    assert point_terms(coords, labels, there).total == 0
    by_a_cell = torch.where(is_moved(labels).unsqueeze(-1), coords + PATCH_SIZE, 0.0)
    # Of five prompts 1, 0, 2, 2 and 0 points move; beyond its tolerance of a quarter of a cell an
    # axis counts linearly, less half of that.
    assert point_terms(coords, labels, by_a_cell).total == pytest.approx(2 * (1 - 0.125) * 5 / 5)
    nothing = torch.full_like(labels, PointLabel.EMPTY)
    assert point_terms(coords, nothing, there).total == 0


def test_a_point_that_is_surely_right_stays_and_one_that_is_surely_wrong_moves() -> None:
    assert gate(torch.tensor([-20.0, 20.0])).tolist() == [1, 0]


def test_a_point_that_is_as_likely_right_as_wrong_stays() -> None:
    probability = torch.tensor([1 / 3, 5 / 12, 1 / 2])
    assert torch.allclose(gate(probability.logit()), torch.tensor([1, 0.5, 0]), atol=1e-5)


def test_the_embeddings_mean_and_spread_do_not_matter_to_the_gated_form() -> None:
    """As of another stain: each channel scaled and shifted."""
    embeddings, coords, labels = every_kind()
    generator = torch.Generator().manual_seed(2)
    scale, shift = torch.rand(2, 1, 256, 1, 1, generator=generator) + 0.5
    points = GatedPointCalibration(128)
    fill_with_noise(points, seed=3, scale=0.1)
    moved = points(embeddings, coords, labels)
    assert torch.allclose(points(scale * embeddings + shift, coords, labels), moved, atol=1e-2)


def test_the_gated_loss_is_least_for_right_estimates() -> None:
    """A click 8 pixels off in x, an accurate one, and a box of which the right side is 4 off."""
    coords = torch.tensor([[[[40.0, 50.0]] * 2, [[40.0, 50.0]] * 2, [[10.0, 20.0], [30.0, 44.0]]]])
    labels = torch.tensor([[[1, -1], [1, -1], [2, 3]]], dtype=torch.int32)
    accurate = coords + torch.tensor([[[[8.0, 0.0], [0, 0]], [[0.0, 0], [0, 0]], [[0, 0], [4, 0]]]])
    grid = offset_grid(coords)
    places = (-50 * (grid - torch.tensor([0.5, 0.0])).square().sum(-1)).expand(1, 3, -1)
    click_stays = torch.tensor([-20.0, 20.0, 0.0]).reshape(1, 3, 1)
    sides = torch.tensor([0.0, 0.0, 4.0, 0.0]).expand(1, 3, 4)
    sides_stay = torch.tensor([20.0, 20.0, -20.0, 20.0]).expand(1, 3, 4)
    right = PointEstimate(places, click_stays, sides, sides_stay)

    def loss(estimate: PointEstimate) -> float:
        return float(gated_terms(estimate, coords, labels, accurate, 16.0).total)

    least = loss(right)
    for name, value in right._asdict().items():
        assert loss(right._replace(**{name: -value})) > least + 0.05, name
    # What is predicted of a click's box or a box's click counts nothing.
    other = sides_stay.clone()
    other[:, :2] = -other[:, :2]
    assert loss(right._replace(sides_stay=other)) == least


@pytest.mark.parametrize("corner", [(0, 0), (20, 9), (55, 57)])
def test_clicks_near_the_border_are_those_of_the_whole_mask(corner: tuple[int, int]) -> None:
    """Morphology on the entity's part alone; the image's border included."""
    row, column = corner
    mask = np.zeros((64, 64), bool)
    mask[row : row + 9, column : column + 7] = True
    rim = ndimage.binary_dilation(mask, iterations=5) & ~mask
    edge = mask & ~ndimage.binary_erosion(mask, iterations=2)
    for seed in range(20):
        for pixels, found in (
            (rim, pixel_wrong(mask, np.random.default_rng(seed), 5)),
            (edge, pixel_at_edge(mask, np.random.default_rng(seed))),
        ):
            rows, columns = np.nonzero(pixels)
            chosen = np.random.default_rng(seed).integers(len(rows))
            assert found == (columns[chosen], rows[chosen])


def test_practice_teaches_points_and_nothing_else() -> None:
    halves = tiny_halves()
    elsewhere = replace(halves.training, accurate_coords=halves.training.practice()[2] + 50)
    learners = []
    for training in (halves.training, elsewhere):
        state = tiny_state()
        state.train_step(replace(halves, training=training), BilevelConfig())
        learners.append(state)
    one, other = (state.trained for state in learners)
    differ = {name for name in one if not torch.equal(one[name], other[name])}
    assert differ and differ <= set(learners[0].points.parameters)


@pytest.mark.parametrize("point_form", ["gated", "offset"])
def test_points_are_learnt_without_anything_else(point_form: Literal["gated", "offset"]) -> None:
    """With no θ, too: the images are then encoded for them."""
    capl = CaplConfig(point_form=point_form)
    state = tiny_state(replace(POINTS_ALONE, capl=capl), OptimizerConfig(lr_points=1e-2))
    halves = tiny_halves()
    losses = [state.train_step(halves, BilevelConfig())["points_total"] for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]
    if point_form == "gated":
        batch = halves.training
        coords, labels, accurate = batch.practice()
        with torch.no_grad():
            moved = state.model.calibrate_points(state.forward.embed(batch), coords, labels)
        error = (coords - accurate).norm(dim=-1)[is_moved(labels)]
        distance = (moved - coords).norm(dim=-1)[is_moved(labels)]
        assert distance[error == 0].mean() < 0.5 * distance[error > 8].mean()


def test_practice_prompts_are_drawn_beside_the_others() -> None:
    def drawn(practice: int) -> StepBatches:
        config = BatchConfig(images=1, entities=2, groups=2, practice=practice)
        return StepBatches([discs(0), discs(1)], MINIATURE, config, SCALE, seed=3, steps=4)

    some, none = drawn(7)[1], drawn(0)[1]
    coords, labels, accurate = some.training.practice()
    assert coords.shape == accurate.shape == (1, 7, 4, 2) and labels.shape == (1, 7, 4)
    assert is_moved(labels).any(-1).all()
    assert (coords == accurate)[is_moved(labels)].all(-1).any()
    plain = replace(some.training, **dict.fromkeys(PRACTICE))
    for half, other in ((plain, none.training), (some.held_out, none.held_out)):
        for name, value in vars(half).items():
            wanted = getattr(other, name)
            assert value is wanted is None or torch.equal(value, wanted), name


def test_points_without_practice_are_refused() -> None:
    config = BatchConfig(images=1, entities=2, groups=2, practice=0)
    halves = StepBatches([discs(0), discs(1)], MINIATURE, config, SCALE, seed=3, steps=4)[0]
    with pytest.raises(ConfigError, match=r"batch\.practice: got 0, expected 1 or more"):
        tiny_state().train_step(halves, BilevelConfig())


def test_positions_are_exact_in_mixed_precision() -> None:
    model = noisy_sam()
    coords, labels = 64 * torch.rand(1, 8, 2, 2), torch.ones(1, 8, 2, dtype=torch.int32)
    exact = model.embed_points(coords, labels), model.image_pe()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.embed_points(coords, labels), model.image_pe()
    assert all(torch.equal(*pair) for pair in zip(exact, mixed, strict=True))
