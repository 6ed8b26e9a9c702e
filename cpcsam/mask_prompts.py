"""Binary masks as prompts: any mask of an image as logits in the encoder's frame, without torch."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cpcsam.contract import LOW_RES_FACTOR, PATCH_SIZE
from cpcsam.geometry import Box
from cpcsam.transforms import input_size_of

__all__ = ["MASK_LOGIT", "logits_of_mask"]

MASK_LOGIT: Final = 6.0
"""Logits on and off a mask are plus and minus this, about what SAM's own masks reach."""


def logits_of_mask(
    mask: NDArray[np.bool_], low_res_size: int, part: Box | None = None
) -> NDArray[np.float32]:
    """Scale a mask to logits, in proportion to the share of each cell that it covers.

    Args:
        mask: (H, W) bool, the image's size.
        low_res_size: 4G, rows and columns of the logits.
        part: of the image that the encoder's frame shows; None for all of it.

    Returns:
        (4G, 4G) float32 logits from -`MASK_LOGIT` to `MASK_LOGIT`, `mask_input` of the tensor
        contract; negative where the frame shows no image.

    Raises:
        ContractError: the part is too narrow for the frame.
    """
    if part is not None:
        mask = part.crop(mask)
    cell = PATCH_SIZE // LOW_RES_FACTOR
    side = low_res_size * cell
    height, width = input_size_of((mask.shape[0], mask.shape[1]), side)
    # BOX averages areas, so that no thin part of a mask is lost between samples.
    white = Image.fromarray(mask.astype(np.uint8) * 255)
    shown = np.zeros((side, side), np.float32)
    shown[:height, :width] = white.resize((width, height), Image.Resampling.BOX)
    shown /= 255
    covered = shown.reshape(low_res_size, cell, low_res_size, cell).mean((1, 3))
    logits: NDArray[np.float32] = (2 * covered - 1) * np.float32(MASK_LOGIT)
    return logits
