"""Annotated images of one AddClass, within bounds of pixels, tiles and memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.config import ClassSearchConfig
from cpcsam.automatic.rle import runs_from_rle
from cpcsam.automatic.support_set import MAX_TILES, Coverage, coverage_of, support_tiles
from cpcsam.automatic.tiling import count_tiles
from cpcsam.contract import EMBED_DIM, grid_size
from cpcsam.errors import ContractError, placed
from cpcsam.geometry import Box
from cpcsam.grpc_errors import LimitError
from cpcsam.transforms import input_size_of
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.context import ModelInfo
from serving.gateway.limits import Limits
from serving.gateway.scheduling.executors import stop_if_abandoned

__all__ = ["MAX_ENTITIES", "SupportSet"]

MAX_ENTITIES: Final = 4096
"""Entities of one image."""
MAX_IMAGES: Final = 4
"""Pixels of all images together, in images of `max_pixels`."""
MAX_EMBEDDINGS: Final = 256 << 20
"""Bytes of the embeddings of all tiles; learning a class takes about four times as much."""
MAX_COVERAGE: Final = 128 << 20
"""Bytes of the coverage of all entities in all tiles."""
MAX_LAYERS: Final = 16
"""Area of the entities of an image, in areas of the image."""


class SupportSet:
    """Bounds of the annotated images of one request, and what their masks cover.

    Args:
        model: that is served.
        limits: of one image.
    """

    def __init__(self, model: ModelInfo, limits: Limits) -> None:
        self._image_size = model.image_size
        self._grid = grid_size(model.image_size)
        self._max_pixels = MAX_IMAGES * limits.max_pixels
        self._pixels = self._tiles = self._coverage = 0

    def admit(self, size: tuple[int, int], tile: int) -> None:
        """Count an image of size (H, W) and the tiles of side `tile` that are learned of it.

        Raises:
            LimitError: the images have too many pixels or tiles in all.
        """
        self._pixels += size[0] * size[1]
        self._tiles += min(count_tiles(size, tile, ClassSearchConfig.overlap), MAX_TILES)
        cells = 4 * EMBED_DIM * self._grid**2
        for what, got, most in (
            ("pixels", self._pixels, self._max_pixels),
            ("tiles", self._tiles, MAX_EMBEDDINGS // cells),
        ):
            if got > most:
                raise LimitError.of(
                    "examples",
                    got=f"images of {got} {what} or more in all",
                    expected=f"at most {most}",
                    fix="give fewer or smaller images",
                )

    def coverages(
        self, where: str, entities: Sequence[pb.CocoRle], size: tuple[int, int], tile: int
    ) -> list[tuple[Box, Coverage]]:
        """Choose an image's tiles, and return what its entities cover of each.

        Later entities lie on top.

        Args:
            where: the example, for messages.
            entities: masks of the image.
            size: (H, W) of the image.
            tile: side of the tiles.

        Raises:
            ContractError: no mask, or a mask that is damaged or of another size.
            LimitError: too many entities.
        """
        instances = _label_image(where, entities, size)
        labels = range(1, len(entities) + 1)
        covered = []
        for part in support_tiles(instances, labels, tile, ClassSearchConfig.overlap):
            stop_if_abandoned()
            input_size = input_size_of(part.size, self._image_size)
            covered.append((part, coverage_of(instances, part, input_size, self._grid)))
            self._coverage += covered[-1][1].cells.nbytes
            if self._coverage > MAX_COVERAGE:
                raise LimitError.of(
                    f"{where}.entities",
                    got=f"too many in all tiles of all examples, {self._coverage} bytes",
                    expected=f"at most {MAX_COVERAGE} bytes of {4 * self._grid**2} for an entity",
                    fix="give fewer examples, or parts of their images",
                )
        return covered


def _label_image(
    where: str, entities: Sequence[pb.CocoRle], size: tuple[int, int]
) -> NDArray[np.int16]:
    """Paint masks into a (H, W) label image, run by run, 1 for the first."""
    if not 1 <= len(entities) <= MAX_ENTITIES:
        raise ContractError.of(
            f"{where}.entities",
            got=len(entities),
            expected=f"1 to {MAX_ENTITIES} masks",
            fix="give the mask of each entity of the class",
        )
    labels = np.zeros(size[0] * size[1], np.int16)
    area = 0
    for index, entity in enumerate(entities):
        stop_if_abandoned()
        given = entity.size.height, entity.size.width
        if given != size:
            raise ContractError.of(
                f"{where}.entities[{index}].size",
                got=f"{given[0]} x {given[1]}",
                expected=f"{size[0]} x {size[1]}, as the image",
                fix="give masks of the upright original image",
            )
        with placed(f"{where}.entities[{index}].counts: "):
            runs = runs_from_rle(entity.counts.encode(errors="replace"), size)
        ends = np.cumsum(runs)
        starts, ends = ends[:-1:2], ends[1::2]
        area += int((ends - starts).sum())
        if area > MAX_LAYERS * len(labels):
            raise LimitError.of(
                f"{where}.entities",
                got=f"masks of more than {MAX_LAYERS} times the image's area",
                expected="less",
                fix="give masks that overlap less",
            )
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            labels[start:end] = index + 1
    # Runs go along columns.
    return labels.reshape(size[::-1]).T
