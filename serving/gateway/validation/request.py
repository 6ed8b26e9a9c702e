"""Validation of Segment requests, before any pixel is decoded or anything is sent to Triton.

Pure functions of the request and the limits. A request that can never succeed raises ContractError,
one beyond a limit LimitError; both name the field at fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from cpcsam.contract import MaskSelection
from cpcsam.errors import ContractError
from cpcsam.grpc_errors import LimitError
from cpcsam.images.options import ReadOptions
from cpcsam.images.reading import ImageHeader, is_too_large, read_header
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.limits import MAX_REQUEST_ID_LENGTH, MAX_SIDE, Limits

__all__ = ["check_image_id", "check_request", "header_of", "original_size_of"]

IMAGE_ID: Final = re.compile("[0-9a-f]{64}")


def check_request(request: pb.SegmentRequest, limits: Limits) -> None:
    """Validate the fields of a request other than its image and coordinates.

    Raises:
        ContractError: the request can never succeed.
        LimitError: it is beyond one of the limits.
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
    modes = [
        name
        for name, is_set in (
            ("prompts", request.prompts),
            ("classes", request.classes),
            ("everything", request.HasField("everything")),
        )
        if is_set
    ]
    if modes not in (["prompts"], ["classes"], ["everything"], ["classes", "everything"]):
        raise ContractError.of(
            "prompts, classes and everything",
            got=" and ".join(modes) or "none",
            expected="one of them",
            fix="request masks of prompts, of classes or of everything",
        )
    _check_answer(request)
    _check_tiles(request)
    for what in ("prompts", "classes"):
        count = len(getattr(request, what))
        if count > limits.max_prompts:
            raise LimitError.of(
                what,
                got=count,
                expected=f"at most {limits.max_prompts}",
                fix="split them over several requests",
            )


def _check_answer(request: pb.SegmentRequest) -> None:
    if request.mask_format not in pb.MaskFormat.values():
        raise ContractError.of(
            "mask_format",
            got=request.mask_format,
            expected=", ".join(f"{number} ({name})" for name, number in pb.MaskFormat.items()),
            fix="choose one of them",
        )
    for name, reason in (
        ("return_low_res_masks", "other masks are merged from several"),
        ("without_calibration", "others are the server's own"),
    ):
        if getattr(request, name) and not request.prompts:
            raise ContractError.of(
                name,
                got="a request without prompts",
                expected=f"prompts, as {reason}",
                fix="leave it out",
            )


def _check_tiles(request: pb.SegmentRequest) -> None:
    # A tile_size of 0 is what requests for classes were told to give.
    given = {"tile_size": request.tile_size, "tile_overlap": request.HasField("tile_overlap")}
    for name in given:
        if request.classes and given[name]:
            raise ContractError.of(
                name,
                got=f"{getattr(request, name):g} with classes",
                expected="none, as a class has the tiles that it was taught with",
                fix="leave it out, or set class_search.overlap",
            )
    if not 0 <= request.tile_overlap < 1:  # also true of NaN
        raise ContractError.of(
            "tile_overlap",
            got=request.tile_overlap,
            expected="from 0 to below 1",
            fix="correct the value",
        )
    if request.tile_size and request.everything.crop_layers:
        raise ContractError.of(
            "tile_size",
            got=f"{request.tile_size} and {request.everything.crop_layers} crop_layers",
            expected="one of them",
            fix="leave one of them out",
        )


def check_image_id(image_id: str) -> None:
    """Validate the form of an image_id.

    Raises:
        ContractError: it is not 64 lower-case hexadecimal digits.
    """
    if not IMAGE_ID.fullmatch(image_id):
        raise ContractError.of(
            "image_id",
            got=f"{image_id[:80]!r}",
            expected="64 lower-case hexadecimal digits",
            fix="give SegmentResponse.image_id, or the SHA-256 of the image file",
        )


def original_size_of(image_bytes: bytes, limits: Limits) -> tuple[int, int]:
    """Return (H, W) of an image's first page, upright; as `header_of`."""
    return header_of(image_bytes, limits).size


def header_of(
    image_bytes: bytes,
    limits: Limits,
    options: ReadOptions | None = None,
    read: Callable[[bytes, ReadOptions | None], ImageHeader] = read_header,
) -> ImageHeader:
    """Read an image's header by the reader that decodes it, without decoding it.

    Args:
        image_bytes: the file.
        limits: of bytes and pixels.
        options: the page that is described.
        read: reads the header of a file, in this process or another.

    Raises:
        ContractError: no bytes, no header of an accepted format, or no such page.
        LimitError: too many bytes or pixels, or a side longer than `MAX_SIDE`.
    """
    if not image_bytes:
        raise ContractError.of(
            "image_bytes", got="nothing", expected="an encoded image", fix="send the file's bytes"
        )
    # gRPC's own limit is wider, as it includes the prompts.
    if len(image_bytes) > limits.max_image_bytes:
        raise LimitError.of(
            "image_bytes",
            got=f"{len(image_bytes)} bytes",
            expected=f"at most {limits.max_image_bytes}",
            fix="compress or shrink the image",
        )
    try:
        header = read(image_bytes, options)
    except ContractError as error:
        if is_too_large(error):
            raise _too_many_pixels("far more", limits) from error
        raise
    height, width = header.size
    if width * height > limits.max_pixels:
        raise _too_many_pixels(f"{width} x {height}", limits)
    if max(header.size) > MAX_SIDE:
        raise LimitError.of(
            "image_bytes",
            got=f"{width} x {height} pixels",
            expected=f"sides of at most {MAX_SIDE}",
            fix="cut the image into parts",
        )
    return header


def _too_many_pixels(got: str, limits: Limits) -> Exception:
    return LimitError.of(
        "image_bytes",
        got=f"{got} pixels",
        expected=f"at most {limits.max_pixels} (width times height)",
        fix="shrink the image or cut it into tiles",
    )
