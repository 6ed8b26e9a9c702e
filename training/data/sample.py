"""Instance-segmentation samples: images with labelled entities, windows, fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cpcsam.errors import ContractError, DataError
from cpcsam.images.masks import read_labels
from cpcsam.images.options import ReadOptions
from cpcsam.images.reading import decode_image
from training.data.labels import whole_labels

__all__ = [
    "ENTITY",
    "Sample",
    "digest_samples",
    "entity_labels",
    "entity_windows",
    "fingerprint",
    "highest_similarity",
    "read_image",
    "read_pair",
    "unreadable_file",
    "windows",
]

ENTITY = "entity"
"""The class of every entity of a dataset that names no classes."""
MAX_FILE_PIXELS = 1 << 27
"""Largest image file of a dataset, in pixels."""


@dataclass(frozen=True)
class Sample:
    """One annotated image.

    Attributes:
        name: identifies the sample in reports.
        image: (H, W, 3) uint8, RGB.
        instances: (H, W) int32, 0 for background and 1..n for the entities.
        class_names: `class_names[label - 1]` is the class of entity `label`; empty if all are
            of one class, `ENTITY`.
    """

    name: str
    image: NDArray[np.uint8]
    instances: NDArray[np.int32]
    class_names: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.instances.shape
        return height, width

    def class_of(self, label: int) -> str:
        """Return the class of the entity `label`, 1..n."""
        if not self.class_names:
            return ENTITY
        if not 1 <= label <= len(self.class_names):
            raise DataError.of(
                f"sample {self.name}",
                got=f"label {label}",
                expected=f"1 to {len(self.class_names)}, which have classes",
                fix="give every entity a class",
            )
        return self.class_names[label - 1]


def read_pair(image_path: Path, instances_path: Path, options: ReadOptions | None = None) -> Sample:
    """Read one image and its label image (0 background, 1..n entities).

    Args:
        image_path: an image file, read as serving reads it.
        instances_path: the label image, upright; of a stack, the image's page.
        options: page, channels and intensity of the image.

    Raises:
        DataError: a file is unreadable or the sizes differ, or the image has several pages or
            channels of which none were chosen.
    """
    image = read_image(image_path, options)
    page = None if options is None else options.page
    try:
        labels = read_labels(instances_path.read_bytes(), MAX_FILE_PIXELS, page)
    except (OSError, ContractError) as error:
        raise unreadable_file(instances_path, error, "a label image") from error
    if image.shape[:2] != labels.shape:
        raise DataError.of(
            str(instances_path),
            got=f"size {labels.shape}",
            expected=f"{image.shape[:2]} as its image",
            fix="give the label image of this image",
        )
    return Sample(image_path.stem, image, whole_labels(labels)[0])


def read_image(path: Path, options: ReadOptions | None = None) -> NDArray[np.uint8]:
    """Read an image file as (H, W, 3) uint8, RGB, as serving reads it.

    Raises:
        DataError: the file is unreadable, or has several pages or channels of which none were
            chosen.
    """
    try:
        return decode_image(path.read_bytes(), MAX_FILE_PIXELS, options, complete=True)
    except (OSError, ContractError) as error:
        raise unreadable_file(path, error, "an image") from error


def unreadable_file(path: Path, error: Exception, expected: str) -> DataError:
    """Return the error of a file that could not be read, from what its reader raised.

    Args:
        path: the file.
        error: an OSError, a ValueError or a ContractError.
        expected: what the file should be.
    """
    if isinstance(error, ContractError) and error.__cause__ is None:
        # The reader's message names what is wrong and what to do.
        return DataError(f"{path}: {str(error).removeprefix('image_bytes: ')}")
    cause = " ".join(str(error.__cause__ or error).split()) or type(error.__cause__).__name__
    missing = isinstance(error, FileNotFoundError)
    got = "no such file" if missing else f"an unreadable file ({cause})"
    return DataError.of(str(path), got=got, expected=expected, fix="restore it")


def windows(sample: Sample, size: int) -> list[Sample]:
    """Tile a sample into squares of `size` pixels on a regular grid from the top left.

    What remains at the right and bottom is dropped, so no pixel is counted twice.
    """
    height, width = sample.instances.shape
    return [
        replace(
            sample,
            name=f"{sample.name}@{top},{left}",
            image=sample.image[top : top + size, left : left + size],
            instances=sample.instances[top : top + size, left : left + size],
        )
        for top in range(0, height - size + 1, size)
        for left in range(0, width - size + 1, size)
    ]


def entity_labels(instances: NDArray[np.int32], min_area: int) -> NDArray[np.int64]:
    """Return the labels of entities of at least `min_area` pixels, ascending, without 0."""
    labels = np.flatnonzero(np.bincount(instances.ravel()) >= min_area)
    return labels[labels > 0]


def entity_windows(sample: Sample, size: int, min_area: int) -> list[Sample]:
    """Cut a square of `size` pixels around every entity.

    A square that would reach beyond the border is moved inside. Its `instances` hold that entity
    alone, under its own label.

    Args:
        sample: at least `size` pixels a side.
        size: side of the squares.
        min_area: entities of fewer pixels are left out.
    """
    height, width = sample.instances.shape
    cuts = []
    for label in entity_labels(sample.instances, min_area):
        rows, columns = np.nonzero(sample.instances == label)
        top = int(np.clip(round(rows.mean()) - size // 2, 0, height - size))
        left = int(np.clip(round(columns.mean()) - size // 2, 0, width - size))
        instances = sample.instances[top : top + size, left : left + size]
        cuts.append(
            replace(
                sample,
                name=f"{sample.name}@{top},{left}",
                image=sample.image[top : top + size, left : left + size],
                instances=np.where(instances == label, instances, 0),
            )
        )
    return cuts


def digest_samples(samples: Sequence[Sample]) -> str:
    """Compute the SHA-256 of names, pixels and labels, which manifests record as training data."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample.name.encode(errors="backslashreplace"))  # of names in no UTF-8
        digest.update(np.ascontiguousarray(sample.image).tobytes())
        digest.update(np.ascontiguousarray(sample.instances).tobytes())
    return digest.hexdigest()


SIDE = 8


def fingerprint(image: NDArray[np.uint8]) -> str:
    """Compute an image's fingerprint: an 8x8 grey thumbnail in hexadecimal.

    It is invariant to size and, through `highest_similarity`, to brightness and contrast.
    imagehash does not serve here: its hashes of 64 bits cannot be compared with the 64 grey levels
    that published bases list in their manifests, and leave the search over rotations and
    mirroring to us.

    Args:
        image: (H, W, 3) uint8.
    """
    thumbnail = Image.fromarray(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    grey = np.asarray(thumbnail, np.float64)
    spread = max(float(grey.max() - grey.min()), 1e-6)
    levels: bytes = ((grey - grey.min()) / spread * 255).round().astype(np.uint8).tobytes()
    return levels.hex()


def highest_similarity(print_: str, others: Iterable[str]) -> float:
    """Return the highest correlation of a fingerprint with others, also rotated and mirrored.

    It lies in [-1, 1]: the same image scores about 1, and no others give -1.
    """
    grid = _grid(print_)
    variants = [np.rot90(side, turns) for side in (grid, grid[:, ::-1]) for turns in range(4)]
    scores = [
        float((_standardized(variant) * _standardized(_grid(other))).mean())
        for other in others
        for variant in variants
    ]
    return max(scores, default=-1.0)


def _grid(print_: str) -> NDArray[np.float64]:
    return np.frombuffer(bytes.fromhex(print_), np.uint8).reshape(SIDE, SIDE).astype(np.float64)


def _standardized(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    standardized: NDArray[np.float64] = (grid - grid.mean()) / max(float(grid.std()), 1e-6)
    return standardized
