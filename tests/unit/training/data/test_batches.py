from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cpcsam.contract import PointLabel
from cpcsam.errors import DataError
from tests.support.training_factory import MINIATURE, SCALE, discs, tiny_batches, tiny_state
from training.data.batches import GROUP_STYLES, BatchConfig, StepBatches
from training.data.prompt_batch import PromptBatch
from training.data.prompt_sampling import PromptMix
from training.data.sample import Sample

CLICK = PromptMix(box=0, several=0, centre=1.0)
WITH_MASK = replace(CLICK, mask=1.0)


def styled(
    *styles: PromptMix, groups: int = 3, image_size: int = 256, strength: float = 1.0
) -> StepBatches:
    """One window of two entities in each half, annotated in these styles."""
    config = BatchConfig(images=1, entities=2, groups=groups, styles=styles, strength=strength)
    return StepBatches([discs(0), discs(1)], image_size, config, SCALE, seed=5, steps=20)


def test_shapes_follow_the_configuration() -> None:
    config = BatchConfig(images=2, entities=3, groups=5)
    samples = [discs(seed) for seed in range(4)]
    half = StepBatches(samples, 256, config, SCALE, seed=0, steps=1)[0].training
    assert half.image.shape == (2, 3, 256, 256) and half.image.dtype == torch.uint8
    assert half.masks.shape == (2, 3, 256, 256) and half.masks.dtype == torch.bool
    assert half.point_coords.shape == (2, 15, 4, 2)
    assert half.point_labels.shape == (2, 15, 4)
    assert (half.masks.sum((-2, -1)) >= config.min_area).all()


def test_prompt_masks_follow_the_groups() -> None:
    batch = tiny_batches()[0].training
    masks = batch.prompt_masks()
    assert masks.shape == (1, 4, 256, 256)
    assert torch.equal(masks[:, 0], batch.masks[:, 0])
    assert torch.equal(masks[:, 1], batch.masks[:, 0])
    assert torch.equal(masks[:, 2], batch.masks[:, 1])


def test_central_and_random_clicks_lie_on_their_entity_and_careless_ones_often_do_not() -> None:
    config = BatchConfig(images=1, entities=4, groups=5)
    batches = StepBatches([discs(0), discs(1)], 256, config, SCALE, seed=0, steps=12)
    inside = np.zeros((5, 2))
    for step in range(12):
        batch = batches[step].held_out
        masks = batch.prompt_masks()
        for prompt in range(20):
            if batch.point_labels[0, prompt, 0] != PointLabel.FOREGROUND:
                continue
            x, y = batch.point_coords[0, prompt, 0].long()
            inside[prompt % 5] += [float(masks[0, prompt, y, x]), 1]
    assert inside[0, 0] == inside[0, 1] == 48
    assert inside[1, 0] == inside[1, 1] == 48
    assert inside[2, 1] == 0, "group 2 draws boxes"
    assert 0.2 < inside[4, 0] / inside[4, 1] < 0.8


def test_group_styles_differ() -> None:
    assert len(set(GROUP_STYLES)) == BatchConfig().groups


def test_step_batches_are_deterministic_in_seed_and_step() -> None:
    batches = tiny_batches()
    again = vars(tiny_batches()[2].training)
    batches[0]
    for name, value in vars(batches[2].training).items():
        assert value is again[name] is None or torch.equal(value, again[name]), name
    assert not torch.equal(batches[1].training.image, batches[2].training.image)


def test_the_halves_come_from_different_samples() -> None:
    samples = [
        replace(discs(index), image=np.full_like(discs(index).image, 40 * index))
        for index in range(4)
    ]
    plain = BatchConfig(images=2, entities=1, groups=1)
    config = replace(plain, augment=replace(plain.augment, colour=0.0, invert=0.0, grey=0.0))
    batches = StepBatches(samples, 256, config, SCALE, seed=0, steps=5)
    for step in range(5):
        halves = batches[step]
        levels = [
            int(image.float().mean().round())
            for half in (halves.training, halves.held_out)
            for image in half.image
        ]
        assert sorted(levels) == [0, 40, 80, 120]


def test_images_without_entities_are_left_out_or_refused() -> None:
    empty = Sample("empty", discs().image, np.zeros_like(discs().instances))
    for mixed in ([empty, discs()], [empty, empty, discs(0), empty, discs(1), empty]):
        for half in vars(
            StepBatches(mixed, 256, BatchConfig(images=1), SCALE, seed=0, steps=1)[0]
        ).values():
            assert half.masks.any((-2, -1)).all()
    with pytest.raises(DataError, match="without an entity"):
        StepBatches([empty], 256, BatchConfig(), SCALE, seed=0, steps=1)[0]


def test_batches_replace_images_with_too_small_entities() -> None:
    small = np.zeros_like(discs().instances)
    small[5, 5] = 1
    samples = [Sample("small", discs().image, small), discs(0), discs(1)]
    batches = StepBatches(samples, 256, BatchConfig(images=1), SCALE, seed=0, steps=6)
    for half in (half for step in range(6) for half in vars(batches[step]).values()):
        assert (half.masks.sum((-2, -1)) >= BatchConfig().min_area).all()


def test_entities_too_small_to_prompt_are_refused() -> None:
    config = BatchConfig(min_area=10**6)
    with pytest.raises(DataError, match=r"sample discs-0: got no entity.*min_area"):
        StepBatches([discs()], MINIATURE, config, SCALE, seed=0, steps=1)[0]


def test_coarse_masks_come_with_the_styles_that_draw_them() -> None:
    batch = styled(CLICK, WITH_MASK, CLICK)[0].training
    assert batch.mask_input is not None and batch.has_mask is not None
    assert batch.mask_input.shape == (1, 6, 1, 64, 64) and batch.mask_input.dtype == torch.float32
    assert batch.has_mask.dtype == torch.bool
    assert batch.has_mask.tolist() == [[False, True, False] * 2]
    drawn = batch.mask_input[:, :, 0].repeat_interleave(4, -1).repeat_interleave(4, -2) > 0
    truth = batch.prompt_masks()
    overlap = 2 * (drawn & truth).sum((-2, -1)) / (drawn.sum((-2, -1)) + truth.sum((-2, -1)))
    assert (overlap > 0.5).all(), "each on the entity of its own prompt"


def test_batches_without_mask_style_have_no_masks() -> None:
    batch = styled(CLICK, CLICK)[0].training
    assert batch.mask_input is None and batch.has_mask is None


def test_batches_with_mask_share_add_coarse_masks() -> None:
    batches = styled(replace(CLICK, mask=0.5), groups=10, image_size=MINIATURE)
    have = [batches[step].training.has_mask for step in range(10)]
    share = torch.stack([mask for mask in have if mask is not None]).float().mean()
    assert 0.4 < share < 0.6


def test_coarse_masks_are_deterministic_in_seed_and_step() -> None:
    mix = replace(WITH_MASK, mask=0.5, mask_noise=0.4)
    first, again = styled(mix)[3].held_out, styled(mix)[3].held_out
    assert first.mask_input is not None and first.has_mask is not None
    assert again.mask_input is not None and again.has_mask is not None
    assert torch.equal(first.mask_input, again.mask_input)
    assert torch.equal(first.has_mask, again.has_mask)
    other = styled(mix)[4].held_out
    assert other.mask_input is not None
    assert not torch.equal(first.mask_input, other.mask_input)


def misses(batches: StepBatches) -> float:
    """Share of the clicks that miss their entity."""
    missed = []
    for step in range(20):
        batch = batches[step].training
        masks = batch.prompt_masks()[0]
        for mask, point in zip(masks, batch.point_coords[0, :, 0].long(), strict=True):
            missed.append(not mask[point[1], point[0]])
    return float(np.mean(missed))


def test_strength_scales_every_style() -> None:
    careless = replace(CLICK, wrong=0.4)
    by_strength = [
        misses(styled(careless, image_size=MINIATURE, strength=strength))
        for strength in (0.0, 1.0, 2.0)
    ]
    assert by_strength[0] == 0
    assert 0.25 < by_strength[1] < 0.55
    assert 0.65 < by_strength[2] < 0.95


def test_with_fewer_groups_than_styles_every_style_is_drawn() -> None:
    mark = (CLICK, PromptMix(box=1, several=0), replace(CLICK, mask=1.0))
    seen = set()
    batches = styled(*mark, groups=1, image_size=MINIATURE)
    for step in range(20):
        batch = batches[step].training
        assert batch.has_mask is not None and batch.point_labels.shape[1] == 2
        for labels, has_mask in zip(batch.point_labels[0], batch.has_mask[0], strict=True):
            seen.add((int(labels[0]), bool(has_mask)))
    assert seen == {(1, False), (2, False), (1, True)}


@torch.no_grad()
def test_prompts_without_a_mask_get_what_they_get_in_a_batch_without_masks() -> None:
    """In float64, as the decoder multiplies differently where image tokens differ by prompt."""
    state = tiny_state(double=True)
    batch = styled(CLICK, WITH_MASK, image_size=MINIATURE)[0].training
    assert batch.mask_input is not None and batch.has_mask is not None
    plain = PromptBatch(batch.image, batch.masks, batch.point_coords, batch.point_labels)
    mixed, unmasked = state.forward(batch), state.forward(plain)
    all_masked = state.forward(replace(batch, has_mask=torch.ones_like(batch.has_mask)))
    has_mask = batch.has_mask
    for name in ("low_res_masks", "iou_predictions"):
        found, without, everywhere = (
            getattr(predictions, name) for predictions in (mixed, unmasked, all_masked)
        )
        scale = without.abs().max()
        assert (found - without)[~has_mask].abs().max() <= 1e-12 * scale
        assert (found - everywhere)[has_mask].abs().max() <= 1e-12 * scale
        assert (found - without)[has_mask].abs().max() > 1e-3 * scale, "masks matter"
