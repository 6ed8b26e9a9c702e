"""Step after the graphs: `postprocess`, logits to RLE, box and area."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.mask_cropping import paste_mask
from cpcsam.automatic.rle import rle_from_crop
from cpcsam.contract import (
    CALIBRATED_COORDS,
    INPUT_SIZE,
    IOU_PREDICTIONS,
    LOW_RES_MASKS,
    MULTIMASK,
    POINT_COORDS,
    POINT_LABELS,
    SINGLE_MASK,
    MaskSelection,
    PointLabel,
)
from cpcsam.entry_points import (
    ALL_MASKS,
    AREAS,
    BBOXES,
    CALIBRATED_POINT_COORDS,
    MASK_SELECTION,
    MASK_THRESHOLDS,
    MASKS_RLE,
    ORIGINAL_SIZE,
    SCORES,
    SELECTED_LOW_RES_MASKS,
    STABILITY,
)
from cpcsam.errors import ContractError
from cpcsam.geometry import EMPTY_BOX
from cpcsam.transforms import input_size_of, restore_coords
from serving.backend.step import Execute, Request, Settings, Tensors, each

__all__ = [
    "open_postprocess",
    "postprocess",
    "select_masks",
]

NO_PIXEL: Final = np.zeros((0, 0), bool)
IN_IMAGE: Final = (MASKS_RLE.name, BBOXES.name, AREAS.name, STABILITY.name)
"""Outputs that need the mask at the image's resolution."""


def open_postprocess(settings: Settings) -> Execute:
    """Open `postprocess` for the image_size of the settings."""
    image_size, max_pixels = settings.integer("image_size"), settings.integer("max_pixels")
    return each(lambda request: postprocess(request, image_size, max_pixels))


def postprocess(request: Request, image_size: int, max_pixels: int) -> Tensors:
    """Select masks and paste them into the original image.

    Args:
        request: low_res_masks (1, P, 4, 4G, 4G) logits, iou_predictions (1, P, 4), input_size and
            original_size (1, 2), point_labels (1, P, N), mask_selection (1, 1); maybe
            mask_thresholds (1, 3); of models that calibrate, point_coords and calibrated_coords
            (1, P, N, 2).
        image_size: side of the encoder's frame.
        max_pixels: the largest original_size.

    Returns:
        The requested ones of masks_rle, areas, scores and stability (1, P, M), bboxes (1, P, M, 4),
        selected_low_res_masks (1, P, M, 4G, 4G) and calibrated_point_coords (1, P, N, 2). A prompt
        without any point is padding: its masks are empty, its scores 0.

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
    min_score, *stability = tensors.get(MASK_THRESHOLDS.name, np.array([ALL_MASKS]))[0].tolist()
    left_out = padding[:, None] | (scores <= min_score)
    scores = np.where(padding[:, None], np.float32(0), scores)
    outputs: dict[str, NDArray[Any]] = {SCORES.name: scores[None]}
    if SELECTED_LOW_RES_MASKS.name in request.outputs:
        outputs[SELECTED_LOW_RES_MASKS.name] = np.ascontiguousarray(masks)[None]
    if not request.outputs.isdisjoint(IN_IMAGE):
        sizes = _sizes(tensors, image_size, max_pixels)
        outputs |= _in_image(masks, left_out, *sizes, image_size, *stability)
    if CALIBRATED_POINT_COORDS.name in request.outputs:
        _, original_size = _sizes(tensors, image_size, max_pixels)
        outputs[CALIBRATED_POINT_COORDS.name] = restore_coords(
            tensors[CALIBRATED_COORDS.name],
            tensors[POINT_COORDS.name],
            original_size,
            image_size,
        )
    return {name: array for name, array in outputs.items() if name in request.outputs}


def select_masks(
    low_res_masks: NDArray[np.float32], iou_predictions: NDArray[np.float32], selection: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Select the masks that answer each prompt.

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
        return low_res_masks[:, SINGLE_MASK], iou_predictions[:, SINGLE_MASK]
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
    """Return input_size and original_size of a request, checked against each other."""
    input_height, input_width = (int(side) for side in tensors[INPUT_SIZE.name][0])
    height, width = (int(side) for side in tensors[ORIGINAL_SIZE.name][0])
    if height * width > max_pixels or min(height, width) < 1:
        raise ContractError.of(
            ORIGINAL_SIZE.name,
            got=f"{height} x {width}",
            expected=f"1 to {max_pixels} pixels",
            fix="send the original_size of encode's response",
        )
    expected = input_size_of((height, width), image_size)
    if (input_height, input_width) != expected:
        raise ContractError.of(
            INPUT_SIZE.name,
            got=f"{input_height} x {input_width}",
            expected=f"{expected[0]} x {expected[1]} for an image of {height} x {width}",
            fix="send the sizes of encode's response with these image_embeddings",
        )
    return expected, (height, width)


def _in_image(
    masks: NDArray[np.float32],
    left_out: NDArray[np.bool_],
    input_size: tuple[int, int],
    original_size: tuple[int, int],
    image_size: int,
    min_stability: float,
    offset: float,
) -> dict[str, NDArray[Any]]:
    """Paste (P, M) masks one at a time: at the image's resolution each may be large.

    Those that are left out, or less stable, stay empty.
    """
    shape = masks.shape[:2]
    counts = np.full(shape, rle_from_crop(NO_PIXEL, EMPTY_BOX, original_size), object)
    bboxes, areas = np.zeros((*shape, 4), np.int32), np.zeros(shape, np.int32)
    stability = np.zeros(shape, np.float32)
    for index in np.ndindex(shape):
        if left_out[index]:
            continue
        pasted = paste_mask(masks[index], input_size, original_size, image_size, offset)
        stability[index] = pasted.stability
        if pasted.stability >= min_stability:
            counts[index] = rle_from_crop(pasted.mask, pasted.bbox, original_size)
            bboxes[index], areas[index] = pasted.bbox.xyxy, pasted.area
    return {
        MASKS_RLE.name: counts[None],
        BBOXES.name: bboxes[None],
        AREAS.name: areas[None],
        STABILITY.name: stability[None],
    }
