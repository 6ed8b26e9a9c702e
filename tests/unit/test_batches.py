from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cpcsam.contract import PointLabel
from cpcsam.errors import DataError
from tests.training_factory import discs, tiny_batches
from training.batches import GROUP_STYLES, BatchConfig, StepBatches
from training.data import Sample


def test_shapes_follow_the_configuration() -> None:
    config = BatchConfig(images=2, entities=3, groups=5)
    samples = [discs(seed) for seed in range(4)]
    half = StepBatches(samples, 256, config, seed=0, steps=1)[0].training
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
    batches = StepBatches([discs(0), discs(1)], 256, config, seed=0, steps=12)
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


def test_a_step_is_decided_by_seed_and_number_alone() -> None:
    batches = tiny_batches()
    again = tiny_batches()[2]
    batches[0]
    for first, second in zip(
        vars(batches[2].training).values(), vars(again.training).values(), strict=True
    ):
        assert torch.equal(first, second)
    assert not torch.equal(batches[1].training.image, batches[2].training.image)


def test_the_halves_come_from_different_samples() -> None:
    samples = [
        replace(discs(index), image=np.full_like(discs(index).image, 40 * index))
        for index in range(4)
    ]
    plain = BatchConfig(images=2, entities=1, groups=1)
    config = replace(plain, augment=replace(plain.augment, colour=0.0, invert=0.0, grey=0.0))
    batches = StepBatches(samples, 256, config, seed=0, steps=5)
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
    assert len(StepBatches([empty, discs()], 256, BatchConfig(), seed=0, steps=1).samples) == 1
    with pytest.raises(DataError, match="without an entity"):
        StepBatches([empty], 256, BatchConfig(), seed=0, steps=1)


def test_entities_too_small_to_prompt_are_refused() -> None:
    config = BatchConfig(min_area=10**6)
    with pytest.raises(DataError, match=r"sample discs-0: got no entity.*min_area"):
        StepBatches([discs()], 256, config, seed=0, steps=1)[0]
