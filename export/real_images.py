"""Real images for comparing engines, resized and padded to the encoder's frame."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.errors import CpcSamError, DataError
from cpcsam.images.options import Intensity, ReadOptions
from cpcsam.images.reading import decode_image
from cpcsam.transforms import pad_image, resize_image

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Scene", "packaged_images", "read_scenes"]

NUCLEI: Final = Path(__file__).resolve().parents[1] / "docs/images/nuclei.png"
PHOTOGRAPHS: Final = (
    "astronaut.png",
    "cell.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "ihc.png",
    "rocket.jpg",
)
"""Images of scikit-image's wheel: people, objects, an animal, coins, cells, stained tissue."""


@dataclass(frozen=True)
class Scene:
    """A real image in the encoder's frame.

    Attributes:
        name: of the file; its path, if another of the scenes has the same name.
        shown: (H, W, 3) uint8 RGB, resized so that the longest side is S.
        image: (1, 3, S, S) uint8 RGB, padded.
        input_size: (1, 2) int32, (H, W) of `shown`.
    """

    name: str
    shown: NDArray[np.uint8]
    image: Tensor
    input_size: Tensor


def packaged_images() -> list[Path]:
    """List the real images that ship with this repository and with scikit-image.

    Raises:
        DataError: scikit-image is not installed.
    """
    # Importing scikit-image takes a second; only its files are needed.
    package = importlib.util.find_spec("skimage")
    if package is None or not package.submodule_search_locations:
        raise DataError.of(
            "scikit-image",
            got="no such package",
            expected="its images",
            fix="pip install 'cpcsam[train]', or give images of your own",
        )
    folder = Path(package.submodule_search_locations[0]) / "data"
    return [NUCLEI, *(folder / name for name in PHOTOGRAPHS)]


def read_scenes(files: Sequence[Path], image_size: int, intensity: Intensity) -> list[Scene]:
    """Read images as the service does, resize and pad them to the encoder's frame.

    Args:
        files: JPEG, PNG, TIFF, BMP or WebP.
        image_size: side S of the frame.
        intensity: the model's policy for more than 8 bits.

    Raises:
        DataError: a file is missing or not an image.
    """
    named = Counter(file.name for file in files)
    names = [file.name if named[file.name] == 1 else str(file) for file in files]
    options = ReadOptions(intensity=intensity)
    return [_read(*one, image_size, options) for one in zip(files, names, strict=True)]


def _read(file: Path, name: str, image_size: int, options: ReadOptions) -> Scene:
    # Here, so that those who only list the files need not load it.
    import torch

    try:
        shown = resize_image(decode_image(file.read_bytes(), options=options), image_size)
    except (OSError, CpcSamError) as error:
        raise DataError.of(
            str(file),
            got=f"an unreadable image ({error})",
            expected="a JPEG, PNG, TIFF, BMP or WebP file",
            fix="give another image",
        ) from error
    return Scene(
        name,
        shown,
        torch.from_numpy(pad_image(shown, image_size))[None],
        torch.tensor([shown.shape[:2]], dtype=torch.int32),
    )
