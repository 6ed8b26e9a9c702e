"""Datasets with a binary mask file per class: CelebAMask-HQ, JSRT with the SCR masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.datasets.files import read_binary, read_rgb, size_fits
from training.data.datasets.folders import SUFFIXES, find_folder, natural_key
from training.data.datasets.image_index import composed, is_hidden
from training.data.datasets.items import Findings, Item, Scan
from training.data.datasets.pairs import by_stem, twice, without_image, without_mask
from training.data.sample import Sample

__all__ = ["ClassFileItem", "ClassFiles"]


@dataclass(frozen=True)
class ClassFileItem(Item):
    """An image with a mask per part; later masks cover earlier ones.

    Attributes:
        image: the image file.
        masks: part and file of each mask.
        parts: class of each part that the dataset knows.
        shrink: reduce an image that is larger than its masks by a whole factor to their size.
    """

    image: Path
    masks: tuple[tuple[str, Path], ...]
    parts: Mapping[str, str]
    shrink: bool

    @property
    def name(self) -> str:
        """The image file's stem."""
        return self.image.stem

    @property
    def files(self) -> tuple[Path, ...]:
        """Image and masks."""
        return (self.image, *(path for _, path in self.masks))

    @property
    def classes(self) -> frozenset[str] | None:
        """Classes, from the names of the masks."""
        return frozenset(self.parts[part] for part, _ in self.masks if part in self.parts)

    @property
    def outlines(self) -> int:
        """Number of masks."""
        return len(self.masks)

    def load(self, findings: Findings) -> Sample | None:
        """Read image and masks."""
        image = read_rgb(self.image, findings)
        masks = [(part, path, read_binary(path, findings)) for part, path in self.masks]
        if image is not None and self.shrink:
            # CelebAMask-HQ has images of 1024 pixels a side and masks of 512.
            image = _shrunk(image, [mask.shape for _, _, mask in masks if mask is not None])
        instances = None if image is None else np.zeros(image.shape[:2], np.int32)
        names: list[str] = []
        for part, path, mask in masks:
            if part not in self.parts:
                findings.lose(
                    path,
                    got=f"unknown class {part!r}",
                    expected=", ".join(self.parts),
                    fix="correct the name or move the file away",
                    unit="annotations",
                    reason="of an unknown class",
                )
            if mask is None or part not in self.parts:
                continue
            if not mask.any():
                findings.empty(path)
            elif instances is not None and size_fits(path, mask, instances.shape, findings):
                names.append(self.parts[part])
                instances[mask] = len(names)
        findings.drawn = len(names)
        findings.account.take("annotations", len(names))
        if image is None or instances is None:
            return None
        return Sample(self.name, image, instances, tuple(names))


def _shrunk(image: NDArray[np.uint8], shapes: list[tuple[int, ...]]) -> NDArray[np.uint8]:
    """Downscale an image to the size of its masks if the factor is a whole number."""
    height, width = image.shape[:2]
    for mask_height, mask_width in shapes[:1]:
        factor = height // max(mask_height, 1)
        if factor > 1 and (height, width) == (factor * mask_height, factor * mask_width):
            return np.asarray(Image.fromarray(image).reduce(factor))
    return image


@dataclass(frozen=True)
class ClassFiles:
    """Images in one folder, masks of all classes in another.

    A mask is `<masks>/**/<number>_<part>.png`, or `<masks>/<part>/<name>.gif`, and belongs to the
    image of that number or name; leading zeros do not count.

    Attributes:
        images: folders to try, in this order.
        masks: likewise.
        parts: class of each part, in the order in which masks are laid over each other.
        part_is_folder: a mask's part is its folder's name, not the end of its own.
        shrink: reduce images that are larger than their masks by a whole factor.
        unused: parts that have masks which are not read.
    """

    images: tuple[str, ...]
    masks: tuple[str, ...]
    parts: Mapping[str, str] = field(hash=False)
    part_is_folder: bool = False
    shrink: bool = True
    unused: tuple[str, ...] = ()

    def scan(self, root: Path) -> Scan:
        """List the images with their masks.

        Raises:
            DataError: a folder is missing or empty.
        """
        findings = Findings(strict=False)
        images = by_stem(find_folder(root, *self.images), "images", findings)
        loose: dict[str, list[str]] = {}
        for stem in images:
            loose.setdefault(_key(stem), []).append(stem)
        masks: dict[str, dict[str, Path]] = {}
        for own, part, path in self._masks(find_folder(root, *self.masks), findings):
            alike = loose.get(_key(own), [])
            stem = own if own in images or len(alike) != 1 else alike[0]
            if masks.setdefault(stem, {}).setdefault(part, path) != path:
                twice(path, masks[stem][part], "annotations", findings)
        for stem in sorted(masks.keys() - images.keys(), key=natural_key):
            without_image(next(iter(masks[stem].values())), findings)
            findings.account.lose("annotations", "without an image", len(masks[stem]))
        for stem in sorted(images.keys() - masks.keys(), key=natural_key):
            without_mask(images[stem], findings)
        order = {part: rank for rank, part in enumerate(self.parts)}
        items = (
            ClassFileItem(
                images[stem],
                tuple(
                    sorted(
                        masks[stem].items(),
                        key=lambda row: (order.get(row[0], len(order)), row[1]),
                    )
                ),
                self.parts,
                self.shrink,
            )
            for stem in sorted(
                images.keys() & masks.keys(), key=lambda stem: natural_key(images[stem].stem)
            )
        )
        return Scan(
            tuple(dict.fromkeys(self.parts.values())),
            tuple(items),
            account=findings.account,
            losses=tuple(findings.losses),
        )

    def _masks(self, folder: Path, findings: Findings) -> Iterator[tuple[str, str, Path]]:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in SUFFIXES and not is_hidden(path.name):
                part = path.parent.name if self.part_is_folder else path.stem.partition("_")[2]
                if part in self.unused:
                    findings.account.pass_over("annotations", f"of {part}, which is not read")
                else:
                    yield self._stem(path), part, path

    def _stem(self, path: Path) -> str:
        """Return the stem of the image that a mask belongs to."""
        stem = composed(path.stem)
        return stem if self.part_is_folder else stem.partition("_")[0]


def _key(stem: str) -> str:
    return stem.lstrip("0") or "0"
