"""Steps before the graphs: `preprocess` (image bytes) and `scale_prompts` (points)."""

from __future__ import annotations

import numpy as np

from cpcsam.contract import CALIBRATE, IMAGE, INPUT_SIZE, POINT_COORDS
from cpcsam.entry_points import CHOSEN_CALIBRATE, IMAGE_BYTES, ORIGINAL_SIZE, SCALED_POINT_COORDS
from cpcsam.errors import ContractError
from cpcsam.images.options import INTENSITY, Intensity, ReadOptions
from cpcsam.images.reading import decode_picture
from cpcsam.transforms import resize_coords, to_frame
from serving.backend.step import Execute, Request, Settings, Tensors, each

__all__ = ["open_preprocess", "open_scale_prompts", "preprocess", "scale_prompts"]


def open_preprocess(settings: Settings) -> Execute:
    """Open `preprocess` for the image_size, max_pixels and intensity of the settings.

    Raises:
        ConfigError: a parameter is missing or out of range.
    """
    image_size, max_pixels = settings.integer("image_size"), settings.integer("max_pixels")
    stated = settings.parameters.get(INTENSITY)
    intensity = None if stated is None else Intensity.parse(stated)
    return each(lambda request: preprocess(request, image_size, max_pixels, intensity))


def open_scale_prompts(settings: Settings) -> Execute:
    """Open `scale_prompts` for the image_size of the settings."""
    image_size = settings.integer("image_size")
    return each(lambda request: scale_prompts(request, image_size))


def preprocess(
    request: Request, image_size: int, max_pixels: int, intensity: Intensity | None = None
) -> Tensors:
    """Decode, resize and pad one image.

    Args:
        request: image_bytes (1, 1), a whole image file.
        image_size: side of the encoder's frame.
        max_pixels: the largest image that is decoded.
        intensity: policy for images of more than 8 bits; None takes the default.

    Returns:
        image (1, 3, S, S) uint8, input_size and original_size (1, 2) int32.

    Raises:
        ContractError: not an image that `decode_picture` accepts.
    """
    content = bytes(request.tensors[IMAGE_BYTES.name].item())
    picture = decode_picture(content, max_pixels, ReadOptions(intensity=intensity))
    frame, input_size = to_frame(picture, image_size)
    return {
        IMAGE.name: frame[None],
        INPUT_SIZE.name: np.array([input_size], np.int32),
        ORIGINAL_SIZE.name: np.array([(picture.height, picture.width)], np.int32),
    }


def scale_prompts(request: Request, image_size: int) -> Tensors:
    """Map the points of one image to the encoder's frame.

    Args:
        request: point_coords (1, P, N, 2) in the original image, original_size (1, 2); maybe
            calibrate (1, 1).
        image_size: side of the encoder's frame.

    Returns:
        scaled_point_coords (1, P, N, 2) float32 and, if requested, chosen_calibrate (1, 1) float32.

    Raises:
        ContractError: a coordinate is not finite, or original_size is no size.
    """
    point_coords = request.tensors[POINT_COORDS.name]
    if not np.isfinite(point_coords).all():
        raise ContractError.of(
            POINT_COORDS.name,
            got="a coordinate that is NaN or infinite",
            expected="finite pixels",
            fix="set the points of empty slots to 0",
        )
    height, width = (int(side) for side in request.tensors[ORIGINAL_SIZE.name][0])
    scaled = resize_coords(point_coords, (height, width), image_size)
    if CHOSEN_CALIBRATE.name not in request.outputs:
        return {SCALED_POINT_COORDS.name: scaled}
    chosen = request.tensors.get(CALIBRATE.name, np.ones((1, 1), np.float32))
    return {SCALED_POINT_COORDS.name: scaled, CHOSEN_CALIBRATE.name: chosen}
