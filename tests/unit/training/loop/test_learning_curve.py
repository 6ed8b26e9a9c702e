"""Validations of a run: the best one, and their drawing."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from training.loop.learning_curve import ValidationScores, best_of, draw_learning_curve

BASE = ValidationScores(0, 0.9, 0.7)


def test_validation_dice_is_the_mean_over_both_clicks() -> None:
    assert BASE.dice == pytest.approx(0.8)


def test_best_is_the_base_until_a_later_validation_exceeds_it() -> None:
    equal, better, again = (
        ValidationScores(*v, 0.5) for v in ((5, 0.7, 0.9), (9, 1, 0.8), (12, 0.8, 1))
    )
    assert best_of([BASE]) is BASE
    assert best_of([BASE, ValidationScores(5, 0.7, 0.7)]) is BASE
    assert best_of([BASE, equal]) is BASE
    assert best_of([BASE, equal, better, again]) is better


@pytest.mark.parametrize(("other_images", "kept"), [(0.8, True), (0.88, False), (None, False)])
def test_a_model_that_segments_other_images_as_well_is_no_best(
    other_images: float | None, kept: bool
) -> None:
    trained = ValidationScores(5, 0.95, 0.85, other_images)
    assert (best_of([BASE, trained]) is trained) == kept


def test_learning_curve_replaces_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "curve.png"
    draw_learning_curve([BASE], file)
    before = file.read_bytes()
    draw_learning_curve([BASE, ValidationScores(5, 0.95, 0.8)], file)
    assert file.read_bytes() != before
    with Image.open(file) as image:
        assert image.size == (700, 400)
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
