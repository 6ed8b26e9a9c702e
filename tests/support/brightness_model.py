"""A model without weights whose answers are known: what is bright."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from cpcsam.contract import EMBED_DIM, NUM_MASKS

BRIGHT = 110


class BrightnessModel:
    """A model of the contract whose entities are bright: an exact answer to what tiles show.

    A cell's embedding holds its pixels, four by four; a click's mask is the bright region that
    it is in.
    """

    image_size = 256

    def encode(self, image: np.ndarray, input_size: np.ndarray) -> np.ndarray:
        fine = image.mean(1).reshape(len(image), 16, 4, 4, 16, 4, 4).mean((3, 6))
        cells = fine.transpose(0, 2, 4, 1, 3).reshape(len(image), 16, 16, 16)
        embeddings = np.zeros((len(image), EMBED_DIM, 16, 16), np.float32)
        embeddings[:, :16] = cells / 255
        embeddings[:, 16] = 1
        return embeddings

    def decode(
        self,
        image_embeddings: np.ndarray,
        point_coords: np.ndarray,
        point_labels: np.ndarray,
        mask_input: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        fine = image_embeddings[0, :16].reshape(4, 4, 16, 16).transpose(2, 0, 3, 1).reshape(64, 64)
        regions = _regions(fine > BRIGHT / 255)
        clicks = np.clip(point_coords[0, :, 0] // 4, 0, 63).astype(int)
        masks = np.stack([_region_at(regions, x, y) for x, y in clicks])
        logits = np.where(masks, 5.0, -5.0).astype(np.float32)
        shape = (1, len(clicks), NUM_MASKS)
        return np.repeat(logits[None, :, None], NUM_MASKS, 2), np.full(shape, 0.9, np.float32)


def _regions(mask: np.ndarray) -> np.ndarray:
    return np.asarray(ndimage.label(mask)[0])


def _region_at(regions: np.ndarray, x: int, y: int) -> np.ndarray:
    """The region under a click, or the nearest one: cells are coarser than regions."""
    rows, columns = np.nonzero(regions)
    if not len(rows):
        return np.zeros(regions.shape, bool)
    nearest = np.argmin((rows - y) ** 2 + (columns - x) ** 2)
    return np.asarray(regions == regions[rows[nearest], columns[nearest]])
