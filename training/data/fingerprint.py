"""Image fingerprints, which detect an image among a model's training data.

imagehash does not serve here: its hashes of 64 bits cannot be compared with the 64 grey levels that
published bases list in their manifests, and leave the search over rotations and mirroring to us.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["fingerprint", "highest_similarity"]

SIDE = 8


def fingerprint(image: NDArray[np.uint8]) -> str:
    """Compute an image's fingerprint: an 8x8 grey thumbnail in hexadecimal.

    It is invariant to size and, through `highest_similarity`, to brightness and contrast.

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
