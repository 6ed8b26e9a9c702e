"""Masks as drawing tools write them: soft edges, opacity, label values of any type."""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["SOFT", "Edges", "edges_of", "opaque_part"]

Edges = Literal["hard", "soft", "labels"]
"""Of a mask's grey levels: two of them; levels between them at edges alone; areas of a third."""

SOFT: Final = "masks with soft edges, cut at half of the brightest grey"
"""How an account calls them."""

MOST_SMALL_LABELS: Final = 64
"""A brightest grey below this is no white but the number of a label."""

WHITES: Final = (255, 65_535)
"""Of masks of 8 and 16 bits; with another brightest grey, flat areas of any other are labels."""

BETWEEN: Final = (0.1, 0.9)
"""Parts of the brightest grey between which a level is neither black nor white."""

FLAT_SHARE: Final = 0.01
BRIGHT_SHARE: Final = 0.2
"""Of the pixels that are not black: fewer white ones are no inside of entities with soft edges."""

LOSSY_STEP: Final = 12
"""Largest difference of neighbouring greys that lossy compression makes in a flat area."""


def opaque_part(values: NDArray[Any], opacity: NDArray[Any]) -> NDArray[Any] | None:
    """Return what the opacity of a mask says, (H, W); None if it says nothing.

    Args:
        values: (H, W, C), grey or colours.
        opacity: (H, W), 0 is transparent.

    Returns:
        The opacity itself where everything opaque has one colour, so that the shape is in the
        opacity alone. None where it is constant or the shape is in the colours.
    """
    if opacity.min() == opacity.max():
        return None
    colours = values[opacity > 0]
    return opacity if (colours == colours[0]).all() else None


def edges_of(grey: NDArray[Any], lossy: bool = False) -> Edges:
    """Tell a black and white mask, with soft edges or not, from a label image.

    Args:
        grey: (H, W), at least 0.
        lossy: the file's format changes greys a little.
    """
    top = grey.max(initial=0)
    inside = np.count_nonzero(grey)
    if not inside or (not lossy and np.count_nonzero(grey == top) == inside):
        return "hard"
    if not lossy and top < MOST_SMALL_LABELS:
        return "labels"
    scale = 255 if lossy else top
    middle = (grey > BETWEEN[0] * scale) & (grey < BETWEEN[1] * scale)
    if not lossy and top not in WHITES:
        middle = (grey > 0) & (grey < top)
    # Edges are thin, so this recognises most masks without a filter.
    elif np.count_nonzero(middle) * 20 < inside:
        return "soft"
    spread = ndimage.maximum_filter(grey, 3).astype(np.float64) - ndimage.minimum_filter(grey, 3)
    flat = np.count_nonzero(middle & (spread <= (LOSSY_STEP if lossy else 0)))
    if flat > max(FLAT_SHARE * inside, 3):
        return "labels"
    bright = np.count_nonzero(grey > BETWEEN[1] * scale)
    return "soft" if lossy or bright > BRIGHT_SHARE * inside else "labels"
