"""Instance-segmentation samples read from disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cpcsam.errors import DataError

__all__ = ["Sample", "digest_samples", "entity_windows", "read_bbbc038", "read_pair", "windows"]


@dataclass(frozen=True)
class Sample:
    """One annotated image.

    Attributes:
        name: identifies the sample in reports.
        image: (H, W, 3) uint8, RGB.
        instances: (H, W) int32, 0 for background and 1..n for the entities.
    """

    name: str
    image: NDArray[np.uint8]
    instances: NDArray[np.int32]


def read_bbbc038(root: Path, ids_file: Path | None = None) -> list[Sample]:
    """Read BBBC038v1's layout, `stage1_train/<id>/{images,masks}/*.png`.

    Args:
        root: the folder that holds `stage1_train`.
        ids_file: a text file with one id a line; None reads every id, sorted.

    Raises:
        DataError: a folder or file is missing, unreadable or of another size.
    """
    folder = root / "stage1_train"
    if not folder.is_dir():
        raise DataError.of(
            str(root),
            got="no folder stage1_train",
            expected="BBBC038v1 as published",
            fix="give the folder that holds stage1_train",
        )
    if ids_file is None:
        ids = sorted(path.name for path in folder.iterdir() if path.is_dir())
    else:
        ids = _read_lines(ids_file)
    return [_read_bbbc038_sample(folder / sample_id) for sample_id in ids]


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError as error:
        raise DataError.of(
            str(path), got=str(error.strerror), expected="a list of ids", fix="correct the path"
        ) from error


def _read_bbbc038_sample(folder: Path) -> Sample:
    image = _read_image(folder / "images" / f"{folder.name}.png", "RGB")
    masks = sorted((folder / "masks").glob("*.png"))
    if not masks:
        raise DataError.of(
            str(folder), got="no masks", expected="masks/*.png", fix="restore or drop this image"
        )
    instances = np.zeros(image.shape[:2], np.int32)
    for index, path in enumerate(masks, start=1):
        mask = _read_image(path, "L")
        if mask.shape != instances.shape:
            raise DataError.of(
                str(path),
                got=f"size {mask.shape}",
                expected=f"{instances.shape} as its image",
                fix="restore the mask",
            )
        instances[mask > 127] = index
    return Sample(folder.name, image, instances)


def _read_image(path: Path, mode: str) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode))
    except (OSError, UnidentifiedImageError) as error:
        raise DataError.of(
            str(path), got=f"an unreadable file ({error})", expected="an image", fix="restore it"
        ) from error


def read_pair(image_path: Path, instances_path: Path) -> Sample:
    """Read one image and its label image (0 background, 1..n entities).

    An image of more than 8 bits is scaled linearly so that its 0.1 % and 99.9 % quantiles span
    0-255, as viewers do.

    Raises:
        DataError: a file is unreadable or the sizes differ.
    """
    try:
        with Image.open(image_path) as file:
            raw = np.asarray(file)
        with Image.open(instances_path) as file:
            instances = np.asarray(file).astype(np.int32)
    except (OSError, UnidentifiedImageError) as error:
        raise DataError.of(
            f"{image_path} and {instances_path}",
            got=f"an unreadable file ({error})",
            expected="an image and a label image",
            fix="restore them",
        ) from error
    if raw.dtype != np.uint8:
        low, high = np.quantile(raw, [0.001, 0.999])
        scaled = (raw.astype(np.float32) - low) / max(float(high - low), 1e-6)
        raw = (scaled.clip(0, 1) * 255).round().astype(np.uint8)
    image = raw if raw.ndim == 3 else np.repeat(raw[:, :, None], 3, axis=2)
    if image.shape[:2] != instances.shape:
        raise DataError.of(
            str(instances_path),
            got=f"size {instances.shape}",
            expected=f"{image.shape[:2]} as its image",
            fix="give the label image of this image",
        )
    return Sample(image_path.stem, image[:, :, :3], instances)


def windows(sample: Sample, size: int) -> list[Sample]:
    """Cut a sample into squares of `size` pixels on a regular grid from the top left.

    What remains at the right and bottom is dropped, so no pixel is counted twice.
    """
    height, width = sample.instances.shape
    return [
        Sample(
            f"{sample.name}@{top},{left}",
            sample.image[top : top + size, left : left + size],
            sample.instances[top : top + size, left : left + size],
        )
        for top in range(0, height - size + 1, size)
        for left in range(0, width - size + 1, size)
    ]


def entity_windows(sample: Sample, size: int, min_area: int) -> list[Sample]:
    """Cut a square of `size` pixels around every entity, as a viewer who zooms in on it would.

    A square that would reach beyond the border is moved inside. Its `instances` hold that entity
    alone, under its own label.

    Args:
        sample: at least `size` pixels a side.
        size: side of the squares.
        min_area: entities of fewer pixels are left out.
    """
    height, width = sample.instances.shape
    areas = np.bincount(sample.instances.ravel())
    cuts = []
    for label in np.flatnonzero(areas >= min_area):
        if label:
            rows, columns = np.nonzero(sample.instances == label)
            top = int(np.clip(round(rows.mean()) - size // 2, 0, height - size))
            left = int(np.clip(round(columns.mean()) - size // 2, 0, width - size))
            instances = sample.instances[top : top + size, left : left + size]
            cuts.append(
                Sample(
                    f"{sample.name}@{top},{left}",
                    sample.image[top : top + size, left : left + size],
                    np.where(instances == label, instances, 0),
                )
            )
    return cuts


def digest_samples(samples: Sequence[Sample]) -> str:
    """SHA-256 over names, pixels and labels: what a manifest says of its training data."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample.name.encode())
        digest.update(np.ascontiguousarray(sample.image).tobytes())
        digest.update(np.ascontiguousarray(sample.instances).tobytes())
    return digest.hexdigest()
