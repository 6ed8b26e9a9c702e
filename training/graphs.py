"""A torch model behind numpy arrays, as automatic segmentation calls it, and support sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cpcsam.artifact import MANIFEST_NAME, sha256_file
from cpcsam.automatic import Model, shown_cells, shown_tiles
from cpcsam.checkpoint import base_digest, load_base, load_run
from cpcsam.contract import PATCH_SIZE
from cpcsam.errors import DataError
from cpcsam.model.sam import CpcSam
from cpcsam.tiles import Tile
from cpcsam.vocabulary import Examples
from training.data import Sample

__all__ = ["TorchGraphs", "class_names", "examples_of", "open_model", "support_set"]

Array = NDArray[np.float32]
MAX_TILES = 12
"""Of one image in a support set, so that no large image outweighs the others."""


class TorchGraphs:
    """`cpcsam.automatic.Model` over torch, on the device that the model is on."""

    def __init__(self, model: CpcSam) -> None:
        self.model = model.eval()
        self.image_size = model.image_size
        self.device = model.sam.pixel_mean.device

    @torch.no_grad()
    def encode(self, image: NDArray[np.uint8], input_size: NDArray[np.int32]) -> Array:
        """(B, 3, S, S) and (B, 2) to image_embeddings (B, 256, G, G)."""
        shown = (torch.from_numpy(array).to(self.device) for array in (image, input_size))
        embeddings = self.model.encode_image(*shown)
        result: Array = embeddings.float().cpu().numpy()
        return result

    @torch.no_grad()
    def decode(
        self, image_embeddings: Array, point_coords: Array, point_labels: NDArray[np.int32]
    ) -> tuple[Array, Array]:
        """(1, 256, G, G), (1, P, N, 2) and (1, P, N) to low_res_masks and iou_predictions."""
        embeddings, *prompts = (
            torch.from_numpy(array).to(self.device)
            for array in (image_embeddings, point_coords, point_labels)
        )
        masks, predicted = self.model.decode_masks(
            embeddings, *self.model.encode_prompts(embeddings, *prompts)
        )
        return masks.float().cpu().numpy(), predicted.float().cpu().numpy()


def open_model(base: Path | None, run: Path | None) -> tuple[CpcSam, str]:
    """Load a base, or a run on its base, with the digest that vocabularies know it by.

    A base is known by its weights' digest, a run by its manifest's, as in later artifacts.

    Args:
        base: an artifact of kind `checkpoint` or an official file; with a run, where its base is.
        run: an artifact of kind `run`; None takes the base alone.

    Raises:
        ArtifactError: base or run cannot be used.
    """
    if run is not None:
        return load_run(run, base), sha256_file(run / MANIFEST_NAME)
    assert base is not None
    return load_base(base), base_digest(base)


def support_set(samples: Sequence[Sample], share: float, seed: int) -> list[Sample]:
    """Draw a share of the samples, at least one; the same for the same list and seed."""
    count = max(1, round(share * len(samples)))
    chosen = np.random.default_rng(seed).permutation(len(samples))[:count]
    return [samples[int(index)] for index in sorted(chosen)]


def class_names(samples: Iterable[Sample]) -> tuple[str, ...]:
    """The classes that have an entity in the samples, sorted."""
    return tuple(
        sorted(
            {
                sample.class_of(int(label))
                for sample in samples
                for label in np.unique(sample.instances)
                if label
            }
        )
    )


def examples_of(
    samples: Iterable[Sample],
    names: Sequence[str],
    graphs: Model,
    tile: int,
    overlap: float = 0.5,
    max_tiles: int = MAX_TILES,
) -> Examples:
    """Embed annotated images tile by tile.

    Args:
        samples: the support set.
        names: the classes to take; entities of others count as background.
        graphs: the model.
        tile: side of the tiles; 0 shows whole images.
        overlap: of neighbouring tiles, as a part of their side.
        max_tiles: at most so many an image, evenly spread.

    Raises:
        DataError: no entity of these classes covers a cell.
    """
    embeddings: list[Array] = []
    entities: list[Array] = []
    valid, images, classes = [], [], []
    for sample in samples:
        for part, input_size, embedded in shown_tiles(
            sample.image, tile, overlap, graphs, max_tiles
        ):
            labels, coverage = _coverage(sample.instances, part, input_size, embedded.shape[-1])
            for label, covered in zip(labels, coverage, strict=True):
                name = sample.class_of(int(label))
                if name in names:
                    entities.append(covered)
                    images.append(len(embeddings))
                    classes.append(names.index(name))
            embeddings.append(embedded)
            valid.append(shown_cells(input_size, embedded.shape[-1]))
    if not entities:
        raise DataError.of(
            "support set",
            got="no entity",
            expected=f"entities of {', '.join(names) or 'some class'}",
            fix="give other images or a larger share",
        )
    return Examples(
        np.stack(embeddings),
        np.stack(entities),
        np.array(images, np.int64),
        np.array(classes, np.int64),
        np.stack(valid),
    )


def _coverage(
    instances: NDArray[np.int32], tile: Tile, input_size: tuple[int, int], grid: int
) -> tuple[NDArray[np.int32], Array]:
    """Labels in a tile and how much of each cell each covers, (E,) and (E, G, G)."""
    shown = np.zeros((grid * PATCH_SIZE, grid * PATCH_SIZE), np.int32)
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(input_size, tile.size, strict=True)
    )
    part = instances[tile.top : tile.bottom, tile.left : tile.right]
    shown[: input_size[0], : input_size[1]] = part[rows][:, columns]
    labels = np.unique(shown[shown > 0])
    cells = shown.reshape(grid, PATCH_SIZE, grid, PATCH_SIZE)
    coverage = [(cells == label).mean((1, 3)) for label in labels]
    return labels, np.asarray(coverage, np.float32).reshape(-1, grid, grid)
