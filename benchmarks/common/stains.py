"""Stained tissue and fluorescence, the two domains of BBBC038v1."""

from __future__ import annotations

import numpy as np

from training.data.sample import Sample

__all__ = ["is_stained"]

COLOURED = 10
"""Mean difference of an image's strongest and weakest channel, in grey levels."""


def is_stained(sample: Sample) -> bool:
    """Return whether an image is coloured, as stained tissue is; fluorescence is grey."""
    channels = sample.image.astype(np.int16)
    return float((channels.max(-1) - channels.min(-1)).mean()) > COLOURED
