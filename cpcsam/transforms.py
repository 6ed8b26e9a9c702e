"""SAM's transforms between the original image and the encoder's frame, without torch.

The encoder's frame is a square of side image_size: the image, resized so that its longest side
fills the square, lies in the top left corner. Sizes are (H, W), points (X, Y) in pixels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cpcsam.contract import (
    LOW_RES_FACTOR,
    grid_size,
)
from cpcsam.errors import ContractError

__all__ = [
    "axis_matrices",
    "input_size_of",
    "pad_image",
    "resize_coords",
    "resize_image",
    "restore_coords",
    "to_frame",
    "upscale_masks",
]

LONG_SIDE: Final = 8192
"""Rows above which few matrices of `upscale_masks` are cached; also those computed at a time."""


def input_size_of(original_size: tuple[int, int], image_size: int) -> tuple[int, int]:
    """Return the image's size in the encoder's frame (SAM's ResizeLongestSide, same rounding).

    Args:
        original_size: (H, W) of the image.
        image_size: side of the encoder's frame.

    Returns:
        (H, W); the longer side is image_size.

    Raises:
        ContractError: a side is 0, here or after resizing.
    """
    scale = image_size / max(*original_size, 1)
    height, width = (int(side * scale + 0.5) for side in original_size)
    if min(height, width) < 1:
        raise ContractError.of(
            "original_size",
            got=f"{original_size[0]} x {original_size[1]}",
            expected=f"a shorter side of at least 1/{2 * image_size} of the longer",
            fix="crop the image",
        )
    return height, width


def resize_image(image: NDArray[np.uint8] | Image.Image, image_size: int) -> NDArray[np.uint8]:
    """Resize so that the longest side is image_size (Pillow bilinear, as official SAM).

    Args:
        image: (H, W, 3) uint8, RGB, or a Pillow image of mode RGB.
        image_size: side of the encoder's frame.

    Returns:
        (H, W, 3) uint8 of size `input_size_of`.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    height, width = input_size_of((picture.height, picture.width), image_size)
    return np.array(picture.resize((width, height), Image.Resampling.BILINEAR))


def pad_image(image: NDArray[np.uint8], image_size: int) -> NDArray[np.uint8]:
    """Pad a resized image with 0 on the right and bottom to the encoder's frame.

    Args:
        image: (H, W, 3) uint8, no side longer than image_size.
        image_size: side of the encoder's frame.

    Returns:
        (3, image_size, image_size) uint8.
    """
    padded = np.zeros((3, image_size, image_size), np.uint8)
    padded[:, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
    return padded


def to_frame(
    image: NDArray[np.uint8] | Image.Image, image_size: int
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Resize and pad an image to the encoder's frame.

    Args:
        image: (H, W, 3) uint8, RGB, or a Pillow image of mode RGB.
        image_size: side of the encoder's frame.

    Returns:
        (3, image_size, image_size) uint8, and input_size (H, W).
    """
    resized = resize_image(image, image_size)
    return pad_image(resized, image_size), (resized.shape[0], resized.shape[1])


def resize_coords(
    point_coords: NDArray[Any], original_size: tuple[int, int], image_size: int
) -> NDArray[np.float32]:
    """Map points from the original image to the encoder's frame, by rounded new over old size.

    Args:
        point_coords: (..., 2), pixels of the original image, (X, Y).
        original_size: (H, W) before resizing.
        image_size: side of the encoder's frame.

    Returns:
        (..., 2) float32, pixels of the encoder's frame.

    Raises:
        ContractError: the last dimension is not 2.
    """
    if point_coords.ndim == 0 or point_coords.shape[-1] != 2:
        raise ContractError.of(
            "point_coords",
            got=f"shape {point_coords.shape}",
            expected="a last dimension of 2",
            fix="give every point as X, Y",
        )
    height, width = input_size_of(original_size, image_size)
    factors = np.array([width / original_size[1], height / original_size[0]])
    return np.asarray(point_coords * factors, np.float32)


def restore_coords(
    frame_coords: NDArray[Any],
    point_coords: NDArray[Any],
    original_size: tuple[int, int],
    image_size: int,
) -> NDArray[np.float32]:
    """Map points that may have been moved in the encoder's frame back to the original image.

    Args:
        frame_coords: (..., 2), pixels of the encoder's frame, (X, Y).
        point_coords: (..., 2), the same points in the original image before they were moved.
        original_size: (H, W) of the image.
        image_size: side of the encoder's frame.

    Returns:
        (..., 2) float32, pixels of the original image; equal to `point_coords` to the bit where
        `resize_coords` would give `frame_coords`.
    """
    height, width = input_size_of(original_size, image_size)
    factors = np.array([original_size[1] / width, original_size[0] / height])
    restored = np.asarray(frame_coords * factors, np.float32)
    is_moved = resize_coords(point_coords, original_size, image_size) != frame_coords
    return np.where(is_moved, restored, np.asarray(point_coords, np.float32))


def upscale_masks(
    low_res_masks: NDArray[np.float32],
    input_size: tuple[int, int],
    original_size: tuple[int, int],
    image_size: int,
) -> NDArray[np.float32]:
    """Upsample mask logits to the image: SAM's `postprocess_masks` as a matrix for each axis.

    That function upsamples to image_size, crops to input_size and resizes to original_size, each
    time bilinearly. All three are linear and separable in rows and columns.

    Args:
        low_res_masks: (..., 4G, 4G) logits.
        input_size: (H, W) of the image in the encoder's frame.
        original_size: (H, W) of the original image.
        image_size: side of the encoder's frame.

    Returns:
        (..., H, W) float32 logits in the original image, C-contiguous along H: the transposed
        view of a (..., W, H) array, the order in which COCO runs are counted.
    """
    low_res = LOW_RES_FACTOR * grid_size(image_size)
    rows, columns = axis_matrices(low_res, image_size, input_size, original_size)
    transposed: NDArray[np.float32] = columns @ np.swapaxes(low_res_masks, -1, -2) @ rows.T
    return np.swapaxes(transposed, -1, -2)


def axis_matrices(
    low_res: int, image_size: int, input_size: tuple[int, int], original_size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the matrices of `upscale_masks`: rows (H, low_res) and columns (W, low_res)."""
    rows, columns = (
        (_long_axis_matrix if side > LONG_SIDE else _short_axis_matrix)(
            low_res, image_size, input_side, side
        )
        for input_side, side in zip(input_size, original_size, strict=True)
    )
    return rows, columns


def _axis_matrix(low_res: int, image_size: int, input_side: int, side: int) -> NDArray[np.float32]:
    """Compose upsampling to image_size, crop and resizing, on one axis: (side, low_res)."""
    upscale = _bilinear_matrix(low_res, image_size)[:input_side]
    matrix = np.empty((side, low_res), np.float32)
    # Composed in float64 and rounded once.
    for start in range(0, side, LONG_SIDE):
        rows = np.arange(start, min(start + LONG_SIDE, side))
        lower, upper, fraction = _neighbours(input_side, side, rows)
        below, above = (1 - fraction)[:, None] * upscale[lower], fraction[:, None] * upscale[upper]
        matrix[rows] = below + above
    # A caller that wrote into the cached matrix would corrupt all later masks of this size.
    matrix.setflags(write=False)
    return matrix


_short_axis_matrix = lru_cache(maxsize=16)(_axis_matrix)
_long_axis_matrix = lru_cache(maxsize=2)(_axis_matrix)


def _bilinear_matrix(old: int, new: int) -> NDArray[np.float64]:
    """Return the (new, old) matrix of bilinear interpolation (align_corners=False)."""
    lower, upper, fraction = _neighbours(old, new, np.arange(new))
    matrix = np.zeros((new, old))
    np.add.at(matrix, (np.arange(new), lower), 1 - fraction)
    np.add.at(matrix, (np.arange(new), upper), fraction)
    return matrix


def _neighbours(
    old: int, new: int, places: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the old places around some of the new ones, and the weights of the upper."""
    # As torch does, positions before the first centre take the first value.
    centres = np.maximum((places + 0.5) * (old / new) - 0.5, 0)
    lower = centres.astype(np.int64)
    upper: NDArray[np.int64] = np.minimum(lower + 1, old - 1)
    fraction = np.asarray(centres - lower, np.float64)
    return lower, upper, fraction
