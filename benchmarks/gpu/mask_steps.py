"""The service's steps after the decoder, in torch and for all masks at once, on any device.

They follow `serving.backend.postprocess` and `cpcsam.automatic.mask_cropping`: selection,
upsampling by a matrix for each axis, threshold, area, box, stability. Masks leave the device as
packed bits, an eighth of a byte a pixel, and become run lengths on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cpcsam.automatic.rle import rle_from_crop
from cpcsam.contract import (
    MASK_THRESHOLD,
    MULTIMASK,
    SINGLE_MASK,
    STABILITY_OFFSET,
    MaskSelection,
)
from cpcsam.geometry import Box

__all__ = [
    "MaskStatistics",
    "mask_statistics",
    "pack_masks",
    "rle_from_packed",
    "select_masks",
    "unpack_mask",
    "upscale_masks",
]

BITS: Final = 8


def select_masks(
    low_res_masks: Tensor, iou_predictions: Tensor, selection: MaskSelection
) -> tuple[Tensor, Tensor]:
    """Select the masks that answer each prompt, as `serving.backend.postprocess.select_masks`.

    Args:
        low_res_masks: (P, 4, 4G, 4G) logits.
        iou_predictions: (P, 4).
        selection: which of the four.

    Returns:
        Masks (P, M, 4G, 4G) and scores (P, M), M = 3 for ALL, else 1.
    """
    if selection == MaskSelection.SINGLE:
        return low_res_masks[:, SINGLE_MASK], iou_predictions[:, SINGLE_MASK]
    if selection == MaskSelection.ALL:
        return low_res_masks[:, MULTIMASK], iou_predictions[:, MULTIMASK]
    best = iou_predictions[:, MULTIMASK].argmax(1, keepdim=True) + MULTIMASK.start
    index = best[..., None, None].expand(-1, -1, *low_res_masks.shape[2:])
    return low_res_masks.gather(1, index), iou_predictions.gather(1, best)


def upscale_masks(low_res_masks: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Upsample mask logits to the image, as `cpcsam.transforms.upscale_masks`.

    Args:
        low_res_masks: (..., 4G, 4G) float32 logits.
        rows: (H, 4G) float32, of `axis_matrices`.
        columns: (W, 4G) float32, likewise.

    Returns:
        (..., W, H) logits: columns first, the order in which COCO runs are counted.
    """
    return columns @ low_res_masks.transpose(-1, -2) @ rows.T


@dataclass(frozen=True)
class MaskStatistics:
    """Figures of M masks.

    Attributes:
        areas: (M,) int32, pixels.
        bboxes: (M, 4) int32, XYXY, far ends exclusive; zeros for an empty mask.
        stability: (M,) float32, 0 for an empty mask.
    """

    areas: Tensor
    bboxes: Tensor
    stability: Tensor


def mask_statistics(logits: Tensor, masks: Tensor) -> MaskStatistics:
    """Compute area, box and stability of masks.

    Args:
        logits: (M, W, H) at the image's resolution.
        masks: (M, W, H) bool, the logits above the threshold.
    """
    areas = masks.sum((1, 2))
    outer = (logits > MASK_THRESHOLD - STABILITY_OFFSET).sum((1, 2))
    inner = (logits > MASK_THRESHOLD + STABILITY_OFFSET).sum((1, 2))
    filled = areas > 0
    # Divided in float64 and rounded once, as by Python and numpy.
    stability = torch.where(filled, inner.double() / outer.clamp(min=1).double(), 0.0).float()
    left, right = _ends(masks.any(2))
    top, bottom = _ends(masks.any(1))
    bboxes = torch.stack([left, top, right, bottom], dim=1) * filled[:, None]
    return MaskStatistics(areas.int(), bboxes.int(), stability)


def _ends(hit: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first True of each row of (M, n), and the end of the last."""
    marks = hit.to(torch.uint8)
    return marks.argmax(1), hit.shape[1] - marks.flip(1).argmax(1)


def pack_masks(masks: Tensor) -> Tensor:
    """Pack masks to bits, as `numpy.packbits` does along the last axis.

    Args:
        masks: (M, W, H) bool.

    Returns:
        (M, W, ceil(H / 8)) uint8, the first pixel in the highest bit.
    """
    padded = F.pad(masks.to(torch.uint8), (0, -masks.shape[-1] % BITS))
    places = (1 << torch.arange(BITS, device=masks.device)).flip(0).to(torch.uint8)
    packed: Tensor = (padded.unflatten(-1, (-1, BITS)) * places).sum(-1, dtype=torch.uint8)
    return packed


def unpack_mask(packed: NDArray[np.uint8], bbox: Box) -> NDArray[np.bool_]:
    """Unpack a box of one mask.

    Args:
        packed: (W, ceil(H / 8)) of `pack_masks`.
        bbox: of the image.

    Returns:
        (h, w) bool of the box's size.
    """
    columns = np.unpackbits(packed[bbox.left : bbox.right], axis=-1).view(bool)
    crop: NDArray[np.bool_] = np.ascontiguousarray(columns[:, bbox.top : bbox.bottom].T)
    return crop


def rle_from_packed(packed: NDArray[np.uint8], bbox: Box, size: tuple[int, int]) -> bytes:
    """Encode a mask of packed bits as COCO run lengths, as the service does.

    Args:
        packed: (W, ceil(H / 8)) of `pack_masks`.
        bbox: of the mask; `EMPTY_BOX` if it is empty.
        size: (H, W) of the image.
    """
    return rle_from_crop(unpack_mask(packed, bbox), bbox, size)
