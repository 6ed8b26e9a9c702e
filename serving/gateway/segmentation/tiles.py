"""Tiles in which the image of a request is shown: as requested, or of the model's own window."""

from __future__ import annotations

from dataclasses import dataclass

from cpcsam.automatic.config import MaskGeneratorConfig
from cpcsam.automatic.tiling import TILE_OVERLAP, count_tiles, tile_boxes
from cpcsam.errors import ContractError
from cpcsam.geometry import Box
from cpcsam.grpc_errors import LimitError
from cpcsam.scale import TOLERANCE, Scale
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.limits import Limits

__all__ = [
    "Tiles",
    "check_work",
    "choose_everything_tiles",
    "choose_prompt_tiles",
    "enlarge_tiles",
    "scale_warnings",
    "tiles_within",
]


@dataclass(frozen=True)
class Tiles:
    """Tiles of one request.

    Attributes:
        side: in pixels of the image; 0 shows the whole image.
        overlap: of neighbouring tiles, as a fraction of their side.
        warnings: a sentence for each way in which they do not fit the model's scale.
    """

    side: int
    overlap: float
    warnings: tuple[str, ...] = ()


def choose_prompt_tiles(
    request: pb.SegmentRequest, size: tuple[int, int], scale: Scale | None
) -> Tiles:
    """Choose the tiles for prompts: of the requested side, by default of the model's window.

    Args:
        request: with prompts.
        size: (H, W) of the image.
        scale: of the model; None shows the whole image by default.
    """
    if not request.HasField("tile_size"):
        return Tiles(_default_side(size, scale), _overlap(request))
    side = request.tile_size
    # A prompt with a mask is answered in the mask's own part of the image.
    tiled = not all(prompt.HasField("mask_input") for prompt in request.prompts)
    warnings = scale_warnings("tile_size", side, size, scale, fix="leave it out") if tiled else ()
    return Tiles(side, _overlap(request), warnings)


def choose_everything_tiles(
    request: pb.SegmentRequest,
    size: tuple[int, int],
    scale: Scale | None,
    config: MaskGeneratorConfig,
    limits: Limits,
    taught: int | None = None,
) -> Tiles:
    """Choose the tiles for everything: of the requested side, by default as small as limits admit.

    By default, tiles have the side that classes were taught with, or that of the model's window,
    or twice it and so on, or the whole image is shown: the first that stays within the limits.
    Crops need the whole image.

    Args:
        request: for everything.
        size: (H, W) of the image.
        scale: of the model; None shows the whole image by default.
        config: grids and crops.
        limits: of tiles and clicks.
        taught: side that the classes were taught with, 0 for the whole image; None takes the
            model's window.
    """
    overlap = _overlap(request)
    if request.HasField("tile_size"):
        side = request.tile_size
        return Tiles(side, overlap, scale_warnings("tile_size", side, size, scale, "leave it out"))
    if config.crop_n_layers:
        warnings = scale_warnings("everything.crop_layers", 0, size, scale, "leave them out")
        return Tiles(0, overlap, warnings)
    default = side = _default_side(size, scale) if taught is None else _within(taught, size)
    while 0 < side < max(size) and not _is_within(limits, size, config, side, overlap):
        side *= 2
    if side == default:
        return Tiles(side, overlap)
    return enlarge_tiles(Tiles(side, overlap), side, size, scale)


def enlarge_tiles(tiles: Tiles, side: int, size: tuple[int, int], scale: Scale | None) -> Tiles:
    """Take larger tiles than the model's window, or the whole image, and say so in a warning.

    Args:
        tiles: that exceed a limit.
        side: to take instead; 0, or at least the image's longest side, for the whole image.
        size: (H, W) of the image.
        scale: of the model.
    """
    warnings = scale_warnings(
        "everything",
        side,
        size,
        scale,
        fix="lower points_per_side, or send a part of the image",
        because="as smaller tiles exceed the limits",
    )
    return Tiles(side if side < max(size) else 0, tiles.overlap, warnings)


def scale_warnings(
    what: str,
    side: int,
    size: tuple[int, int],
    scale: Scale | None,
    fix: str,
    because: str = "",
) -> tuple[str, ...]:
    """Return a sentence if tiles do not have the model's scale, although others would.

    Args:
        what: the field at fault.
        side: of the tiles; 0 shows the whole image.
        size: (H, W) of the image.
        scale: of the model; None, of a model that declares none, never warns.
        fix: next step for the user, in the imperative.
        because: why these tiles were taken; it is reported even if they fit.
    """
    if scale is None:
        return ()
    longest = max(size)
    shown, best = min(side or longest, longest), scale.side(size)
    # An image smaller than the window cannot be shown any better.
    if shown == best or (scale.fits(shown, size) and not because):
        return ()
    got = f"tiles of {side} pixels" if shown < longest else f"the whole image of {longest} pixels"
    if best == longest:
        expected = "the whole image, as in training"
    else:
        spread = scale.spread * TOLERANCE
        low, high = best / spread, best * spread
        expected = f"tiles of {best} pixels ({low:.0f} to {high:.0f}), as in training"
    got = f"{got}, {because}" if because else got
    return (str(ContractError.of(what, got=got, expected=expected, fix=fix)),)


def tiles_within(size: tuple[int, int], side: int, overlap: float, max_tiles: int) -> list[Box]:
    """Return the tiles of an image within the limit.

    Raises:
        LimitError: there are more than max_tiles.
    """
    check_tiles(size, side, overlap, max_tiles)
    return tile_boxes(size, side, overlap)


def check_tiles(size: tuple[int, int], side: int, overlap: float, max_tiles: int) -> int:
    """Return the number of tiles of an image, of which none is laid out.

    Raises:
        LimitError: there are more than max_tiles.
    """
    count = count_tiles(size, side, overlap)
    if count > max_tiles:
        raise LimitError.of(
            "tiles",
            got=f"an image of {size[0]} x {size[1]} in tiles of {side} pixels, {count} in all",
            expected=f"at most {max_tiles} tiles",
            fix="take larger tiles, or send a part of the image",
        )
    return count


def check_work(
    size: tuple[int, int],
    config: MaskGeneratorConfig,
    side: int,
    overlap: float,
    limits: Limits,
) -> None:
    """Check the tiles and clicks of a request for everything, before any is laid out.

    Raises:
        LimitError: there are too many.
    """
    if side:
        tiles = check_tiles(size, side, overlap, limits.max_tiles)
        clicks = tiles * config.points_per_side**2
    else:
        layers = range(config.crop_n_layers + 1)
        tiles = sum(4**layer for layer in layers)
        points = [
            config.points_per_side // config.crop_n_points_downscale_factor**i for i in layers
        ]
        clicks = sum(4**layer * max(points[layer], 1) ** 2 for layer in layers)
    for what, got, most in (
        ("crops", tiles, limits.max_tiles),
        ("clicks", clicks, limits.max_clicks),
    ):
        if got > most:
            raise LimitError.of(
                f"everything, {what}",
                got=got,
                expected=f"at most {most}",
                fix="lower points_per_side or crop_layers, or take larger tiles",
            )


def _within(side: int, size: tuple[int, int]) -> int:
    """Return the side of tiles that are smaller than the image, 0 for the whole image."""
    return side if side < max(size) else 0


def _default_side(size: tuple[int, int], scale: Scale | None) -> int:
    """Return the window of the model, 0 if it has none or holds the whole image."""
    window = 0 if scale is None or scale.window is None else scale.window
    return _within(window, size)


def _is_within(
    limits: Limits, size: tuple[int, int], config: MaskGeneratorConfig, side: int, overlap: float
) -> bool:
    try:
        check_work(size, config, side, overlap, limits)
    except LimitError:
        return False
    return True


def _overlap(request: pb.SegmentRequest) -> float:
    return request.tile_overlap if request.HasField("tile_overlap") else TILE_OVERLAP
