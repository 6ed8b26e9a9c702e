"""Validation of prompts, and geometry of validated ones. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cpcsam.errors import ContractError
from cpcsam.geometry import Box
from cpcsam.grpc_errors import PreconditionError
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.limits import MAX_POINT_SLOTS

__all__ = ["check_calibration", "check_prompts", "needed_box", "part_of", "slots_of"]

Corners = tuple[float, float, float, float]


def check_prompts(
    prompts: Sequence[pb.Prompt], original_size: tuple[int, int], low_res_size: int
) -> None:
    """Validate prompts against the image's size, and their masks against the model.

    Args:
        prompts: of the request.
        original_size: (H, W) of the upright image.
        low_res_size: rows and columns of a mask's logits; 0 if the model takes no masks.

    Raises:
        ContractError: a prompt without points, box or binary mask, with too many points, a
            coordinate that is not finite or outside the image, an empty box, or a mask of another
            size or part. It names the first wrong field.
    """
    for index, prompt in enumerate(prompts):
        where = f"prompts[{index}]"
        _check_prompt(where, prompt, original_size)
        # Together with a binary mask, it is refused when that is converted.
        if prompt.HasField("mask_input") and not prompt.HasField("mask"):
            _check_mask(f"{where}.mask_input", prompt, original_size, low_res_size)


def check_calibration(without_calibration: bool, calibrates: bool | None) -> None:
    """Check that the model can take the prompts as they are given, if that is requested.

    Args:
        without_calibration: of the request.
        calibrates: of the model's `ModelInfo`.

    Raises:
        PreconditionError: the model may calibrate prompts, and has no switch for it.
    """
    if without_calibration and calibrates is None:
        raise PreconditionError.of(
            "without_calibration",
            got="a model repository without a switch for the calibration",
            expected="one that this version has published",
            fix="leave it out, or merge, export and publish the model again",
        )


def slots_of(prompt: pb.Prompt) -> int:
    """Return the number of point slots of a prompt: one per point, two for a box."""
    return len(prompt.points) + (2 if prompt.HasField("box") else 0)


def _check_prompt(where: str, prompt: pb.Prompt, original_size: tuple[int, int]) -> None:
    slots = slots_of(prompt)
    if slots == 0 and not prompt.HasField("mask"):
        raise ContractError.of(
            where,
            got="no points, no box and no mask",
            expected="at least one of them",
            fix="add a point",
        )
    if slots > MAX_POINT_SLOTS:
        raise ContractError.of(
            where,
            got=f"{slots} point slots (a box takes 2)",
            expected=f"at most {MAX_POINT_SLOTS}",
            fix="leave out points",
        )
    height, width = original_size
    for index, point in enumerate(prompt.points):
        if not (0 <= point.x < width and 0 <= point.y < height):  # also true of NaN
            raise ContractError.of(
                f"{where}.points[{index}]",
                got=_numbers(point.x, point.y),
                expected=f"0 <= x < {width} and 0 <= y < {height}",
                fix="give pixels of the upright original image as (x, y)",
            )
    if prompt.HasField("box"):
        _check_box(f"{where}.box", prompt.box, original_size)


def needed_box(prompt: pb.Prompt) -> Corners:
    """Return the bounding box, XYXY, of all points and the box of a prompt."""
    x, y = [point.x for point in prompt.points], [point.y for point in prompt.points]
    if prompt.HasField("box"):
        x += [prompt.box.x0, prompt.box.x1]
        y += [prompt.box.y0, prompt.box.y1]
    return min(x), min(y), max(x), max(y)


def part_of(mask: pb.LowResMask, original_size: tuple[int, int]) -> Box:
    """Return the part of the image that a validated mask prompt covers."""
    if not mask.HasField("part"):
        return Box(0, 0, *original_size)
    part = mask.part
    return Box(int(part.y0), int(part.x0), int(part.y1), int(part.x1))


def _check_mask(
    where: str, prompt: pb.Prompt, original_size: tuple[int, int], low_res_size: int
) -> None:
    mask = prompt.mask_input
    if len(mask.logits) != 4 * low_res_size**2 or low_res_size == 0:
        raise ContractError.of(
            f"{where}.logits",
            got=f"{len(mask.logits)} bytes",
            expected=f"{low_res_size} rows of as many float32"
            if low_res_size
            else "no mask, as this model takes none",
            fix="give Mask.low_res_mask of an answer of this model",
        )
    if not np.isfinite(np.frombuffer(mask.logits, "<f4")).all():
        raise ContractError.of(
            f"{where}.logits",
            got="a value that is NaN or infinite",
            expected="finite logits",
            fix="clamp them",
        )
    if not mask.HasField("part"):
        return
    _check_box(f"{where}.part", mask.part, original_size)
    corners = mask.part.x0, mask.part.y0, mask.part.x1, mask.part.y1
    x0, y0, x1, y1 = needed_box(prompt)
    if any(corner % 1 for corner in corners) or not (
        corners[0] <= x0 and corners[1] <= y0 and x1 <= corners[2] and y1 <= corners[3]
    ):
        raise ContractError.of(
            f"{where}.part",
            got=_numbers(*corners),
            expected=f"whole pixels around {_numbers(x0, y0, x1, y1)}, where the prompt points",
            fix="give the part that came with the logits",
        )


def _check_box(where: str, box: pb.Box, original_size: tuple[int, int]) -> None:
    height, width = original_size
    if not (0 <= box.x0 < box.x1 <= width and 0 <= box.y0 < box.y1 <= height):
        raise ContractError.of(
            where,
            got=_numbers(box.x0, box.y0, box.x1, box.y1),
            expected=f"0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height}",
            fix="give the corners as (x0, y0, x1, y1) in pixels of the upright original image",
        )


def _numbers(*values: float) -> str:
    """Format float32 values as the caller wrote them: 0.1 as 0.1."""
    shown = (f"{value:.7g}" if math.isfinite(value) else str(value) for value in values)
    return f"({', '.join(shown)})"
