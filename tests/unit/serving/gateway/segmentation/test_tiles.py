"""Choice of tiles: as requested, else of the model's window, else as small as limits admit."""

from __future__ import annotations

import re

import pytest

from cpcsam.automatic.config import MaskGeneratorConfig
from cpcsam.grpc_errors import LimitError
from cpcsam.scale import Scale
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.limits import Limits
from serving.gateway.segmentation.tiles import (
    Tiles,
    check_work,
    choose_everything_tiles,
    choose_prompt_tiles,
    enlarge_tiles,
    scale_warnings,
)

SIZE = (400, 300)
SCALE = Scale(64, 1.5)
WHOLE_IMAGES = Scale(None, 1.5)
LIMITS = Limits()
FEW = MaskGeneratorConfig(points_per_side=4)
CLICK = pb.Prompt(points=[pb.Point(x=1, y=2)])


def request(**fields: object) -> pb.SegmentRequest:
    return pb.SegmentRequest(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [None, WHOLE_IMAGES, Scale(400), Scale(1000)])
def test_choose_prompt_tiles_without_a_smaller_window_shows_the_whole_image(
    scale: Scale | None,
) -> None:
    assert choose_prompt_tiles(request(prompts=[CLICK]), SIZE, scale) == Tiles(0, 0.25)


def test_choose_prompt_tiles_by_default_takes_the_window() -> None:
    asked = request(prompts=[CLICK], tile_overlap=0.0)
    assert choose_prompt_tiles(asked, SIZE, SCALE) == Tiles(64, 0)


@pytest.mark.parametrize(
    ("side", "scale", "warned"),
    [
        (64, SCALE, ""),
        (100, SCALE, ""),
        (0, SCALE, "tile_size: got the whole image of 400 pixels, expected tiles of 64 pixels"),
        (999, SCALE, "tile_size: got the whole image of 400 pixels, expected tiles of 64 pixels"),
        (20, SCALE, r"tile_size: got tiles of 20 pixels, .* \(34 to 120\), as in training; leave"),
        (64, WHOLE_IMAGES, "tile_size: got tiles of 64 pixels, expected the whole image, as in"),
        (64, Scale(512), "tile_size: got tiles of 64 pixels, expected the whole image, as in"),
        (0, WHOLE_IMAGES, ""),
        (64, None, ""),
    ],
)
def test_choose_prompt_tiles_as_requested_warns_of_another_scale(
    side: int, scale: Scale | None, warned: str
) -> None:
    tiles = choose_prompt_tiles(request(prompts=[CLICK], tile_size=side), SIZE, scale)
    assert (tiles.side, len(tiles.warnings)) == (side, bool(warned))
    assert all(re.match(warned, warning) for warning in tiles.warnings)


@pytest.mark.parametrize("side", [0, 20, 500])
def test_images_smaller_than_the_window_are_not_warned_of(side: int) -> None:
    assert scale_warnings("tile_size", side, (20, 12), SCALE, "leave it out") == ()


def test_prompts_with_masks_are_not_warned_of() -> None:
    refined = pb.Prompt(points=CLICK.points, mask_input=pb.LowResMask(logits=b"1234"))
    for prompts, count in (([refined], 0), ([refined, CLICK], 1)):
        tiles = choose_prompt_tiles(request(prompts=prompts, tile_size=0), SIZE, SCALE)
        assert len(tiles.warnings) == count


@pytest.mark.parametrize(
    ("limits", "side", "got"),
    [
        (Limits(), 64, ""),
        (Limits(max_clicks=560), 64, ""),
        (Limits(max_tiles=35), 64, ""),
        (Limits(max_tiles=34), 128, "tiles of 128 pixels, as smaller tiles exceed the limits"),
        (Limits(max_clicks=559), 128, "tiles of 128 pixels, as smaller tiles exceed the limits"),
        (Limits(max_clicks=191), 256, "tiles of 256 pixels, as smaller tiles exceed the limits"),
        (Limits(max_tiles=3), 0, "the whole image of 400 pixels, as smaller tiles exceed the"),
        (Limits(max_clicks=63), 0, "the whole image of 400 pixels, as smaller tiles exceed the"),
    ],
)
def test_choose_everything_tiles_by_default_stays_within_the_limits(
    limits: Limits, side: int, got: str
) -> None:
    asked = request(everything=pb.Everything(), tile_overlap=0.0)
    tiles = choose_everything_tiles(asked, SIZE, SCALE, FEW, limits)
    assert (tiles.side, len(tiles.warnings)) == (side, bool(got))
    assert all(warning.startswith(f"everything: got {got}") for warning in tiles.warnings)
    if side:
        check_work(SIZE, FEW, side, 0.0, limits)


def test_choose_everything_tiles_tells_a_doubling_within_the_spread_too() -> None:
    asked = request(everything=pb.Everything())
    (told,) = choose_everything_tiles(asked, SIZE, Scale(64, 3), FEW, Limits(max_tiles=30)).warnings
    assert told.startswith("everything: got tiles of 128 pixels, as smaller")


def test_choose_everything_tiles_for_classes_begins_with_those_that_they_were_taught_with() -> None:
    asked = request(everything=pb.Everything(), classes=["a"])
    assert choose_everything_tiles(asked, SIZE, SCALE, FEW, LIMITS, 128).side == 128
    assert choose_everything_tiles(asked, SIZE, None, FEW, LIMITS, 128).side == 128
    for whole in (0, 400, 4096):
        assert choose_everything_tiles(asked, SIZE, SCALE, FEW, LIMITS, whole).side == 0
    assert choose_everything_tiles(asked, SIZE, SCALE, FEW, LIMITS).side == 64
    larger = choose_everything_tiles(asked, SIZE, SCALE, FEW, Limits(max_tiles=9), 64)
    assert larger.side > 64 and "as smaller tiles exceed the limits" in larger.warnings[0]


def test_choose_everything_tiles_with_crops_shows_the_whole_image() -> None:
    config = MaskGeneratorConfig(crop_n_layers=1)
    asked = request(everything=pb.Everything(crop_layers=1))
    tiles = choose_everything_tiles(asked, SIZE, SCALE, config, LIMITS)
    assert tiles.side == 0
    assert tiles.warnings[0].startswith("everything.crop_layers: got the whole image of 400 pixels")
    assert choose_everything_tiles(asked, SIZE, None, config, LIMITS) == Tiles(0, 0.25)


def test_choose_everything_tiles_as_requested_is_left_to_the_limits() -> None:
    asked = request(everything=pb.Everything(), tile_size=8)
    tiles = choose_everything_tiles(asked, SIZE, SCALE, FEW, Limits(max_tiles=9))
    assert tiles.side == 8 and tiles.warnings[0].startswith("tile_size: got tiles of 8 pixels")
    with pytest.raises(LimitError, match="expected at most 9 tiles"):
        check_work(SIZE, FEW, tiles.side, tiles.overlap, Limits(max_tiles=9))


def test_enlarge_tiles_to_the_whole_image_says_so() -> None:
    larger = enlarge_tiles(Tiles(64, 0.5), 512, SIZE, SCALE)
    assert (larger.side, larger.overlap) == (0, 0.5)
    assert "got the whole image of 400 pixels, as smaller tiles exceed" in larger.warnings[0]
