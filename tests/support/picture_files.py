"""One photograph as image files of every kind, each with the RGB pixels that it stands for."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cpcsam.images.reading import decode_image
from export.real_images import packaged_images

ORIENTATION = 0x0112
TURNED_LEFT = 6
"""EXIF's word for an image that a viewer has to turn right by a quarter."""
Pixels = NDArray[np.uint8]


def photograph(height: int, width: int) -> Pixels:
    """A part of a photograph, (H, W, 3)."""
    whole = decode_image(packaged_images()[1].read_bytes())
    return np.ascontiguousarray(whole[60 : 60 + height, 180 : 180 + width])


def picture_files() -> dict[str, tuple[bytes, Pixels]]:
    """Files by their kind, with upright RGB pixels as a viewer shows them; all without loss."""
    picture = photograph(75, 111)
    grey = picture[..., 1]
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED_LEFT
    alpha = np.random.default_rng(0).integers(0, 256, (*grey.shape, 1), dtype=np.uint8)
    cmyk = Image.fromarray(picture).convert("CMYK")
    # The shipped policy, written out: 0.1 % and 99.9 % quantiles become black and white.
    deep = grey.astype(np.uint16) * 16
    low, high = np.quantile(deep, (0.001, 0.999))
    stretched = np.rint(((deep - low) / (high - low)).clip(0, 1) * 255).astype(np.uint8)
    as_grey = np.repeat(grey[..., None], 3, axis=2)
    return {
        "odd": (_file(Image.fromarray(picture), "PNG"), picture),
        "tall": (_file(Image.fromarray(picture[:, :31]), "BMP"), picture[:, :31]),
        "exif": (_file(Image.fromarray(np.rot90(picture)), "WEBP", exif=exif), picture),
        "grey": (_file(Image.fromarray(grey), "PNG"), as_grey),
        "rgba": (_file(Image.fromarray(np.concatenate([picture, alpha], 2)), "PNG"), picture),
        "16-bit": (_file(Image.fromarray(deep), "PNG"), np.repeat(stretched[..., None], 3, axis=2)),
        "cmyk": (_file(cmyk, "TIFF"), np.array(cmyk.convert("RGB"))),
    }


def _file(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    if kind == "WEBP":
        options |= {"lossless": True, "exact": True}
    image.save(buffer, kind, **options)
    return buffer.getvalue()
