"""Checks of a Segment request, before any pixel is decoded or anything is sent to Triton.

Pure functions of the request and the limits. What can never succeed is a ContractError, what is
over a limit a LimitError; both name the field at fault.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Sequence
from typing import Final

from PIL import ExifTags, Image

from cpcsam.contract import MaskSelection
from cpcsam.errors import ContractError
from cpcsam.status import LimitError
from cpcsam.transforms import IMAGE_FORMATS
from cpcsam.v1 import segmentation_pb2 as pb
from serving.limits import MAX_POINT_SLOTS, MAX_REQUEST_ID_LENGTH, Limits

__all__ = ["check_prompts", "check_request", "original_size_of", "slots_of"]

IMAGE_ID: Final = re.compile("[0-9a-f]{64}")
SIDEWAYS: Final = (5, 6, 7, 8)
"""EXIF orientations whose upright image has height and width exchanged."""


def check_request(request: pb.SegmentRequest, limits: Limits) -> None:
    """Check what a request asks for; its image and where the prompts point are checked next.

    Raises:
        ContractError: the request can never succeed.
        LimitError: it is over one of the limits.
    """
    if len(request.request_id) > MAX_REQUEST_ID_LENGTH:
        raise ContractError.of(
            "request_id",
            got=f"{len(request.request_id)} characters",
            expected=f"at most {MAX_REQUEST_ID_LENGTH}",
            fix="shorten it",
        )
    if request.mask_selection not in [choice.value for choice in MaskSelection]:
        raise ContractError.of(
            "mask_selection",
            got=request.mask_selection,
            expected=", ".join(f"{choice.value} ({choice.name})" for choice in MaskSelection),
            fix="choose one of them",
        )
    asked = [
        name
        for name, wanted in (
            ("prompts", request.prompts),
            ("classes", request.classes),
            ("everything", request.HasField("everything")),
        )
        if wanted
    ]
    if len(asked) != 1:
        raise ContractError.of(
            "prompts, classes and everything",
            got=" and ".join(asked) or "none",
            expected="one of them",
            fix="ask for what prompts point at, for the entities of classes or for everything",
        )
    _check_supported(request)
    for what in ("prompts", "classes"):
        count = len(getattr(request, what))
        if count > limits.max_prompts:
            raise LimitError.of(
                what,
                got=count,
                expected=f"at most {limits.max_prompts}",
                fix="split them over several requests",
            )


def _check_supported(request: pb.SegmentRequest) -> None:
    for name in ("everything", "mask_format", "return_low_res_masks", "tile_size", "tile_overlap"):
        if name in {field.name for field, _ in request.ListFields()}:
            raise _not_supported(name)
    if any(prompt.HasField("mask_input") for prompt in request.prompts):
        raise _not_supported("mask_input")


def _not_supported(name: str) -> ContractError:
    return ContractError.of(
        name, got="a value", expected="none, as this server knows it not yet", fix="leave it out"
    )


def check_image_id(image_id: str) -> None:
    if not IMAGE_ID.fullmatch(image_id):
        raise ContractError.of(
            "image_id",
            got=f"{image_id[:80]!r}",
            expected="64 lower-case hexadecimal digits",
            fix="give SegmentResponse.image_id, or the SHA-256 of the image file",
        )


def original_size_of(image_bytes: bytes, limits: Limits) -> tuple[int, int]:
    """Read an image's size from its header, without decoding it.

    Returns:
        (H, W) of the image, upright by its EXIF orientation.

    Raises:
        ContractError: no bytes, or no header of an accepted format.
        LimitError: too many bytes or pixels.
    """
    if not image_bytes:
        raise ContractError.of(
            "image_bytes", got="nothing", expected="an encoded image", fix="send the file's bytes"
        )
    if len(image_bytes) > limits.max_image_bytes:
        raise LimitError.of(
            "image_bytes",
            got=f"{len(image_bytes)} bytes",
            expected=f"at most {limits.max_image_bytes}",
            fix="compress or shrink the image",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own opinion of large or odd files
            width, height = _upright_size(image_bytes)
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(f"over {2 * (Image.MAX_IMAGE_PIXELS or 0)}", limits) from error
    except Exception as error:  # Pillow's parsers raise anything on a damaged header
        raise ContractError.of(
            "image_bytes",
            got=f"{len(image_bytes)} bytes without a readable image header",
            expected=f"a file of {', '.join(IMAGE_FORMATS)}",
            fix="send the file's bytes unchanged, or convert it to PNG",
        ) from error
    if width * height > limits.max_pixels:
        raise _too_many_pixels(f"{width} x {height}", limits)
    return height, width


def _upright_size(image_bytes: bytes) -> tuple[int, int]:
    """(width, height) after the EXIF orientation."""
    with Image.open(io.BytesIO(image_bytes), formats=IMAGE_FORMATS) as image:
        width, height = image.size
        # Pillow gives a TIFF's size upright; asked for a PNG's missing EXIF, it decodes the image.
        oriented = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
        if oriented and image.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS:
            return height, width
        return width, height


def _too_many_pixels(got: str, limits: Limits) -> Exception:
    return LimitError.of(
        "image_bytes",
        got=f"{got} pixels",
        expected=f"at most {limits.max_pixels} (width times height)",
        fix="shrink the image or cut it into tiles",
    )


def check_prompts(prompts: Sequence[pb.Prompt], original_size: tuple[int, int]) -> None:
    """Check every prompt against the image it points into.

    Args:
        prompts: the request's prompts.
        original_size: (H, W) of the upright image.

    Raises:
        ContractError: a prompt without points or box, with too many points, a coordinate that is
            not finite or outside the image, or an empty box. It names the first one.
    """
    for index, prompt in enumerate(prompts):
        _check_prompt(f"prompts[{index}]", prompt, original_size)


def slots_of(prompt: pb.Prompt) -> int:
    """Point slots that a prompt takes in the tensors: one a point, two for a box."""
    return len(prompt.points) + (2 if prompt.HasField("box") else 0)


def _check_prompt(where: str, prompt: pb.Prompt, original_size: tuple[int, int]) -> None:
    slots = slots_of(prompt)
    if slots == 0:
        raise ContractError.of(
            where, got="no points and no box", expected="at least one of them", fix="add a point"
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
    """Numbers as the caller wrote them: float32 shows 0.1 as 0.1."""
    shown = (f"{value:.7g}" if math.isfinite(value) else str(value) for value in values)
    return f"({', '.join(shown)})"
