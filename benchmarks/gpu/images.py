"""Real images that stages measure with: the given folder's, the packaged, and some of BBBC038v1."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from benchmarks.gpu.stage import StageContext
from cpcsam.errors import DataError
from export.real_images import packaged_images

__all__ = ["real_images"]

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
NUCLEI: Final = 24
"""Images taken of BBBC038v1, evenly over its sorted list."""


def real_images(context: StageContext) -> list[Path]:
    """List images, each once; one alone if the run is a quick one.

    Raises:
        DataError: there is none.
    """
    given = sorted(context.images.glob("*")) if context.images else []
    files = [file for file in given if file.suffix.lower() in SUFFIXES]
    with suppress(DataError):
        files += packaged_images()
    if context.quick and files:
        # Of ours that is the micrograph, which shows what the base was trained on.
        return files[:1]
    if context.bbbc038:
        nuclei = sorted(context.bbbc038.rglob("images/*.png"))
        files += nuclei[:: max(1, len(nuclei) // NUCLEI)][:NUCLEI]
    if not files:
        raise DataError.of(
            str(context.images),
            got="no images",
            expected=f"files of {', '.join(SUFFIXES)}",
            fix="give another --images",
        )
    return files
