"""PNG files: a folder an image, a file a mask with one bit per pixel, in the order of the masks."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.errors import ContractError, DataError, extra
from cpcsam.formats import UNNAMED
from cpcsam.formats.losses import count_fields
from cpcsam.formats.records import ImageRecord, ListedImage, Losses, MaskRecord

with extra("client"):
    from PIL import Image

    from cpcsam.images.masks import read_foreground

__all__ = ["encode_png", "read", "write"]

LOST: Final = ("label", "score", "stability", "prompt")


def write(images: Iterable[ImageRecord], folder: Path) -> Losses:
    """Write `NAME/001.png` and so on, see `records.Format`."""
    losses = Losses()
    for image in images:
        for number, mask in enumerate(image.masks, start=1):
            picture = Image.fromarray(mask.array(image.size))
            write_atomic(folder / image.name / f"{number:03}.png", encode_png(picture))
        count_fields(image.masks, LOST, losses)
        if not image.masks:
            losses["images without a mask"] += 1
    return losses


def encode_png(picture: Image.Image) -> bytes:
    """Encode a picture as the bytes of a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def read(folder: Path) -> Iterator[ListedImage]:
    """List the folders that hold PNG files, each an image of their path; see `records.Format`."""
    found: dict[Path, list[Path]] = {}
    for file in sorted(folder.rglob("*.png")):
        found.setdefault(file.parent, []).append(file)
    if not found:
        raise DataError.of(
            str(folder),
            got="no *.png",
            expected="a folder of masks an image",
            fix="correct the path",
        )
    for parent, files in found.items():
        name = parent.relative_to(folder).as_posix()
        # 1000.png comes after 999.png.
        files.sort(key=lambda file: (len(file.stem), file.stem))
        yield ListedImage(
            name, (UNNAMED,) * len(files), partial(_decode, tuple(files)), tuple(files)
        )


def _decode(files: Iterable[Path], size: tuple[int, int]) -> Iterator[MaskRecord]:
    for file in files:
        try:
            mask = read_foreground(file.read_bytes())
        except ContractError as error:
            raise DataError(f"{file}: {error}") from error
        if mask.shape != size:
            raise DataError.of(
                str(file), got=f"size {mask.shape}", expected=f"{size}", fix="restore the mask"
            )
        yield MaskRecord.of_mask(mask)
