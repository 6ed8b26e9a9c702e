"""Steps after the graphs: `postprocess` (logits to run lengths) and `return_embeddings`."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.mask_cropping import NOWHERE, place_mask
from cpcsam.automatic.rle import rle_of_part
from cpcsam.contract import (
    IMAGE_EMBEDDINGS,
    INPUT_SIZE,
    IOU_PREDICTIONS,
    LOW_RES_MASKS,
    MASK_SELECTION,
    MASKS_RLE,
    ORIGINAL_SIZE,
    POINT_LABELS,
    RETURNED_EMBEDDINGS,
    SCORES,
    SELECTED_LOW_RES_MASKS,
    STABILITY,
    MaskSelection,
    PointLabel,
)
from cpcsam.errors import ContractError
from cpcsam.transforms import input_size_of
from serving.backend.step import Execute, Request, Settings, Tensors, each

__all__ = [
    "open_postprocess",
    "open_return_embeddings",
    "postprocess",
    "select_masks",
]

MULTIMASK: Final = slice(1, None)
"""The masks that SAM offers for ambiguous prompts."""
NO_PIXEL: Final = np.zeros((0, 0), bool)


def open_postprocess(settings: Settings) -> Execute:
    """`postprocess` for the image_size of the settings."""
    image_size, max_pixels = settings.integer("image_size"), settings.integer("max_pixels")
    return each(lambda request: postprocess(request, image_size, max_pixels))


def open_return_embeddings(settings: Settings) -> Execute:
    """`return_embeddings`: the same array under the name of an output."""
    return each(lambda request: {RETURNED_EMBEDDINGS.name: request.tensors[IMAGE_EMBEDDINGS.name]})


def postprocess(request: Request, image_size: int, max_pixels: int) -> Tensors:
    """Select masks and give those that are wanted in the original image.

    Args:
        request: low_res_masks (1, P, 4, 4G, 4G) logits, iou_predictions (1, P, 4), input_size and
            original_size (1, 2), point_labels (1, P, N), mask_selection (1, 1).
        image_size: side of the encoder's frame.
        max_pixels: the largest original_size.

    Returns:
        What is wanted of scores, masks_rle and stability (1, P, M) and of selected_low_res_masks
        (1, P, M, 4G, 4G). A prompt without any point is padding: its masks are empty, its scores 0.

    Raises:
        ContractError: an unknown mask_selection, or sizes that do not belong together.
    """
    tensors = request.tensors
    padding = (tensors[POINT_LABELS.name][0] == PointLabel.EMPTY).all(axis=-1)
    masks, scores = select_masks(
        tensors[LOW_RES_MASKS.name][0],
        tensors[IOU_PREDICTIONS.name][0],
        int(tensors[MASK_SELECTION.name].item()),
    )
    scores = np.where(padding[:, None], np.float32(0), scores)
    answer: dict[str, NDArray[Any]] = {SCORES.name: scores[None]}
    if SELECTED_LOW_RES_MASKS.name in request.outputs:
        answer[SELECTED_LOW_RES_MASKS.name] = np.ascontiguousarray(masks)[None]
    if not request.outputs.isdisjoint((MASKS_RLE.name, STABILITY.name)):
        sizes = _sizes(tensors, image_size, max_pixels)
        counts, stability = _in_image(masks, padding, *sizes, image_size)
        answer |= {MASKS_RLE.name: counts[None], STABILITY.name: stability[None]}
    return {name: array for name, array in answer.items() if name in request.outputs}


def select_masks(
    low_res_masks: NDArray[np.float32], iou_predictions: NDArray[np.float32], selection: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Take the masks that answer each prompt.

    Args:
        low_res_masks: (P, 4, 4G, 4G) logits.
        iou_predictions: (P, 4).
        selection: a MaskSelection.

    Returns:
        Masks (P, M, 4G, 4G) and scores (P, M), M = 3 for ALL, else 1.

    Raises:
        ContractError: selection is no MaskSelection.
    """
    if selection == MaskSelection.SINGLE:
        return low_res_masks[:, :1], iou_predictions[:, :1]
    if selection == MaskSelection.ALL:
        return low_res_masks[:, MULTIMASK], iou_predictions[:, MULTIMASK]
    if selection == MaskSelection.BEST:
        best = iou_predictions[:, MULTIMASK].argmax(axis=1)[:, None] + MULTIMASK.start
        masks = np.take_along_axis(low_res_masks, best[..., None, None], axis=1)
        return masks, np.take_along_axis(iou_predictions, best, axis=1)
    raise ContractError.of(
        MASK_SELECTION.name,
        got=selection,
        expected=", ".join(f"{value.value} ({value.name})" for value in MaskSelection),
        fix="choose one of them",
    )


def _sizes(
    tensors: Tensors, image_size: int, max_pixels: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """input_size and original_size of a request that belong together."""
    input_height, input_width = (int(side) for side in tensors[INPUT_SIZE.name][0])
    height, width = (int(side) for side in tensors[ORIGINAL_SIZE.name][0])
    if height * width > max_pixels or min(height, width) < 1:
        raise ContractError.of(
            ORIGINAL_SIZE.name,
            got=f"{height} x {width}",
            expected=f"1 to {max_pixels} pixels",
            fix="send the original_size that encode answered",
        )
    expected = input_size_of((height, width), image_size)
    if (input_height, input_width) != expected:
        raise ContractError.of(
            INPUT_SIZE.name,
            got=f"{input_height} x {input_width}",
            expected=f"{expected[0]} x {expected[1]} for an image of {height} x {width}",
            fix="send the sizes that encode answered with these image_embeddings",
        )
    return expected, (height, width)


def _in_image(
    masks: NDArray[np.float32],
    padding: NDArray[np.bool_],
    input_size: tuple[int, int],
    original_size: tuple[int, int],
    image_size: int,
) -> tuple[NDArray[np.object_], NDArray[np.float32]]:
    """(P, M) run lengths and stability; one mask at a time, for in the image each may be large."""
    counts = np.full(masks.shape[:2], rle_of_part(NO_PIXEL, NOWHERE, original_size), object)
    stability = np.zeros(masks.shape[:2], np.float32)
    for index in np.ndindex(counts.shape):
        if not padding[index[0]]:
            placed = place_mask(masks[index], input_size, original_size, image_size)
            counts[index] = rle_of_part(placed.mask, placed.area, original_size)
            stability[index] = placed.stability
    return counts, stability
