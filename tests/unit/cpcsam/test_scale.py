"""`Scale`: what is shown of an image, and what fits."""

from __future__ import annotations

import pytest

from cpcsam.errors import ConfigError
from cpcsam.scale import SCALE, Scale


def test_a_window_is_the_side_that_is_shown() -> None:
    assert Scale(128).side((300, 500)) == 128


def test_a_window_that_holds_the_image_shows_its_longer_side() -> None:
    assert Scale(128).side((60, 100)) == 100
    assert Scale(128).fits(100, (60, 100)) and not Scale(128, 1.0).fits(64, (60, 100))


def test_without_a_window_the_longer_side_is_shown() -> None:
    assert Scale(None).side((300, 500)) == 500


@pytest.mark.parametrize(
    ("side", "fits"), [(128, True), (80, True), (68, False), (200, True), (245, False)]
)
def test_sides_within_the_spread_fit(side: float, fits: bool) -> None:
    assert Scale(128, 1.5).fits(side, (1000, 1000)) is fits


def test_manifests_keep_the_scale() -> None:
    scale = Scale(96, 1.25)
    assert Scale.of_manifest({SCALE: scale.record()}) == scale
    assert Scale.of_manifest({SCALE: Scale().record()}) == Scale()
    assert Scale.of_manifest({}) is None


@pytest.mark.parametrize("arguments", [(0, 1.5), (64, 0.9)])
def test_impossible_scales_are_refused(arguments: tuple[int, float]) -> None:
    with pytest.raises(ConfigError, match="scale"):
        Scale(*arguments)
