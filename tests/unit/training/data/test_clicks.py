from __future__ import annotations

from dataclasses import replace

from scipy import ndimage

from tests.support.training_factory import discs
from training.data.prompt_sampling import central_pixel
from training.evaluation.one_click import ACCURATE_CLICK, CARELESS_CLICK, entity_clicks


def test_accurate_clicks_are_central() -> None:
    sample = discs()
    clicks = entity_clicks(sample, 30, ACCURATE_CLICK)
    assert clicks == {label: central_pixel(sample.instances == label) for label in (1, 2, 3, 4)}
    assert entity_clicks(sample, 100_000) == {}


def test_careless_clicks_repeat_and_are_at_most_five_pixels_off() -> None:
    missed = 0
    for number in range(50):
        sample = replace(discs(), name=f"image {number}")
        clicks = entity_clicks(sample, 30, CARELESS_CLICK)
        assert clicks == entity_clicks(sample, 30, CARELESS_CLICK)
        for label, (x, y) in clicks.items():
            entity = sample.instances == label
            near = ndimage.binary_dilation(entity, iterations=5)
            assert near[int(y), int(x)]
            missed += not entity[int(y), int(x)]
    assert 70 < missed < 130
