"""Encoding of images, in any form that callers hold them, as the bytes of an image file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from cpcsam.errors import ContractError, extra

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["ImageId", "ImageLike", "encode_image"]


class ImageId(str):
    """Name of an image that the server has seen: the SHA-256 of its file, in hexadecimal."""


ImageLike: TypeAlias = Union[NDArray[np.uint8], "Image.Image", bytes, ImageId, str, Path]
"""An (H, W, 3) uint8 RGB array, a Pillow image, an encoded file's bytes, the path of a file, or the
`image_id` of an earlier answer."""

MODES_OF_PNG: Final = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def encode_image(image: ImageLike) -> bytes:
    """Encode an image as the bytes of a file: arrays and Pillow images as PNG, files unchanged.

    Args:
        image: (H, W, 3) uint8 RGB array, Pillow image, or the bytes or path of an image file.

    Raises:
        ContractError: an array of another shape or dtype, an unreadable file, or an ImageId.
        ModuleNotFoundError: Pillow is needed and not installed.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, ImageId):
        raise ContractError.of("image", got="an ImageId", expected="an image", fix="give its file")
    if isinstance(image, str | Path):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise ContractError.of(
                str(image), got=error.strerror, expected="an image file", fix="correct the path"
            ) from error
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ContractError.of(
                "image",
                got=f"shape {image.shape} of {image.dtype}",
                expected="(H, W, 3) of uint8, RGB",
                fix="convert the array, or send the file's bytes",
            )
        with extra("client"):
            from PIL import Image
        image = Image.fromarray(image)
    elif image.mode not in MODES_OF_PNG:
        image = image.convert("RGB")
    file = io.BytesIO()
    # Speed before size: an image is encoded for each request, but rarely sent twice.
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
