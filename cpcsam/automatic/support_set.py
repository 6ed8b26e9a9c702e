"""Support sets: examples of a vocabulary from the encoded tiles of annotated images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.class_search import EncodedTile, image_cells
from cpcsam.automatic.tiling import count_tiles, spread_tiles, tile_around, tile_boxes
from cpcsam.contract import PATCH_SIZE
from cpcsam.errors import ContractError
from cpcsam.geometry import Box

__all__ = [
    "MAX_TILES",
    "Coverage",
    "ExampleCollector",
    "Examples",
    "coverage_of",
    "support_tiles",
]

MAX_TILES = 12
"""Tiles of an image in a support set, so that no large image outweighs the others."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Examples:
    """Encoded annotated images.

    Attributes:
        image_embeddings: (B, 256, G, G) float32.
        entities: (E, G, G) float32 in [0, 1], coverage of each cell by an entity.
        images: (E,) index of each entity's image.
        classes: (E,) index of its class.
        valid: (B, G, G) bool, cells that show the image rather than padding.
    """

    image_embeddings: Array
    entities: Array
    images: NDArray[np.int64]
    classes: NDArray[np.int64]
    valid: NDArray[np.bool_]

    def pooled(self, class_index: int) -> Array:
        """Return the mask-pooled embedding of every entity of a class, (entities, 256)."""
        chosen = np.flatnonzero((self.classes == class_index) & (self.entities.sum((1, 2)) > 0))
        weights = self.entities[chosen]
        # One by one, as a tile may have thousands of entities.
        pairs = zip(self.images[chosen], weights, strict=True)
        sums = [np.einsum("cij,ij->c", self.image_embeddings[i], weight) for i, weight in pairs]
        pooled = np.reshape(sums, (len(chosen), self.image_embeddings.shape[1]))
        return np.asarray(pooled / weights.sum((1, 2))[:, None], np.float32)

    def coverage(self, class_index: int) -> Array:
        """Return the coverage of each valid cell by a class, (cells,) in [0, 1]."""
        total = np.zeros(self.valid.shape, np.float32)
        chosen = self.classes == class_index
        np.add.at(total, self.images[chosen], self.entities[chosen])
        return total[self.valid].clip(0, 1)  # entities may overlap

    def cells(self) -> Array:
        """Return the embeddings of the valid cells, (cells, 256)."""
        return np.moveaxis(self.image_embeddings, 1, -1)[self.valid]


class Coverage(NamedTuple):
    """How far the entities in a tile cover the cells of its embedding.

    Attributes:
        labels: (E,) of the entities.
        cells: (E, G, G) float32 in [0, 1].
    """

    labels: NDArray[np.signedinteger[Any]]
    cells: Array


class ExampleCollector:
    """Collects the tiles of a support set.

    Args:
        names: the classes to take; entities of others count as background.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._embeddings: list[Array] = []
        self._valid: list[NDArray[np.bool_]] = []
        self._entities: list[Array] = []
        self._images: list[int] = []
        self._classes: list[int] = []

    def add(
        self, encoded: EncodedTile, instances: NDArray[np.int32], class_of: Callable[[int], str]
    ) -> None:
        """Add a tile of an annotated image.

        Args:
            encoded: the tile.
            instances: (H, W) label image of the whole image, 0 for background.
            class_of: name of a label's class.
        """
        grid = encoded.image_embeddings.shape[-1]
        covered = coverage_of(instances, encoded.tile, encoded.input_size, grid)
        self.add_covered(encoded, covered, class_of)

    def add_covered(
        self, encoded: EncodedTile, coverage: Coverage, class_of: Callable[[int], str]
    ) -> None:
        """Add a tile whose coverage is known; see `add`."""
        grid = encoded.image_embeddings.shape[-1]
        for label, covered in zip(*coverage, strict=True):
            name = class_of(int(label))
            if name in self._names:
                self._entities.append(covered)
                self._images.append(len(self._embeddings))
                self._classes.append(self._names.index(name))
        self._embeddings.append(encoded.image_embeddings)
        self._valid.append(image_cells(encoded.input_size, grid))

    def examples(self) -> Examples:
        """Return the examples added so far.

        Raises:
            ContractError: no entity of the classes covers a cell.
        """
        if not self._entities:
            raise ContractError.of(
                "support set",
                got="no entity",
                expected=f"entities of {', '.join(self._names) or 'some class'}",
                fix="give other images, or more",
            )
        return Examples(
            np.stack(self._embeddings),
            np.stack(self._entities),
            np.array(self._images, np.int64),
            np.array(self._classes, np.int64),
            np.stack(self._valid),
        )


def support_tiles(
    instances: NDArray[np.signedinteger[Any]],
    labels: Sequence[int],
    side: int,
    overlap: float,
    most: int = MAX_TILES,
) -> list[Box]:
    """Choose the tiles of an annotated image that a support set learns from.

    All, unless they are more than `most`. Then up to half of these are around pixels of the
    entities, evenly spread over the entities, or over the pixels of each if entities are few; the
    others are evenly spread over the image, so that its background is learned as well.

    Args:
        instances: (H, W) label image, 0 for background.
        labels: of the entities to learn.
        side: of the tiles; 0 takes the whole image as one tile.
        overlap: of neighbouring tiles, as a fraction of their side.
        most: largest number of tiles.
    """
    size = instances.shape[0], instances.shape[1]
    if count_tiles(size, side, overlap) <= most:
        return tile_boxes(size, side, overlap)
    count = max(1, most // 2)
    chosen: dict[Box, None] = {}
    for index in range(count) if labels else ():
        entity, part = divmod((2 * index + 1) * len(labels) / (2 * count), 1)
        pixel = _pixel(instances == labels[int(entity)], part)
        if pixel is not None:
            y, x = pixel
            chosen[tile_around(size, side, overlap, (x, y, x + 1, y + 1))] = None
    spread = spread_tiles(size, side, overlap, most - len(chosen)) if len(chosen) < most else []
    return list(chosen | dict.fromkeys(spread))


def _pixel(mask: NDArray[np.bool_], part: float) -> tuple[int, int] | None:
    """Return the pixel (Y, X) of a mask that has this part of the others before it, by rows."""
    ends = np.cumsum(np.count_nonzero(mask, axis=1))
    if not ends[-1]:
        return None
    place = int(part * ends[-1])
    row = int(np.searchsorted(ends, place, side="right"))
    return row, int(np.flatnonzero(mask[row])[place - ends[row]])


def coverage_of(
    instances: NDArray[np.signedinteger[Any]], tile: Box, input_size: tuple[int, int], grid: int
) -> Coverage:
    """Return the labels in a tile and their coverage of each cell of its embedding.

    Args:
        instances: (H, W) label image of the whole image, 0 for background.
        tile: of the image.
        input_size: (H, W) of the tile in the encoder's frame.
        grid: G, the embedding's rows and columns.
    """
    # Nearest pixel centres, because interpolation would invent labels.
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(input_size, tile.size, strict=True)
    )
    shown = tile.crop(instances)[rows[:, None], columns]
    cell = (np.arange(input_size[0]) // PATCH_SIZE * grid)[:, None] + (
        np.arange(input_size[1]) // PATCH_SIZE
    )
    labelled = shown > 0
    labels, index = np.unique(shown[labelled], return_inverse=True)
    pixels = np.bincount(index * grid**2 + cell[labelled], minlength=len(labels) * grid**2)
    cells = (pixels / PATCH_SIZE**2).astype(np.float32).reshape(-1, grid, grid)
    return Coverage(labels, cells)
