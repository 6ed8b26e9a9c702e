"""Images as callers have them, as the bytes of a file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cpcsam.errors import ContractError

__all__ = ["ImageId", "ImageLike", "encode_image"]


class ImageId(str):
    """Names an image that the server has seen: the SHA-256 of its file, in hexadecimal."""


ImageLike = NDArray[np.uint8] | Image.Image | bytes | ImageId | str | Path
"""An (H, W, 3) uint8 RGB array, a Pillow image, an encoded file's bytes, the path of a file, or the
`image_id` of an earlier answer."""

MODES_OF_PNG: Final = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def encode_image(image: ImageLike) -> bytes:
    """Bytes of an image file: what is not one yet becomes a PNG.

    Raises:
        ContractError: an array of another shape or dtype, a file that cannot be read, or no image.
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
        image = Image.fromarray(image)
    elif image.mode not in MODES_OF_PNG:
        image = image.convert("RGB")
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
