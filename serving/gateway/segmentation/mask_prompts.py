"""Binary masks of prompts, converted in place to the logits that the model takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.instance_mask import bbox_from_mask
from cpcsam.automatic.rle import mask_from_rle
from cpcsam.automatic.tiling import tile_around
from cpcsam.errors import ContractError, placed
from cpcsam.images.masks import read_foreground
from cpcsam.mask_prompts import logits_of_mask
from cpcsam.scale import Scale
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.scheduling.executors import stop_if_abandoned
from serving.gateway.segmentation.tiles import choose_prompt_tiles
from serving.gateway.validation.prompts import Corners, needed_box

__all__ = ["convert_masks", "has_masks"]


def has_masks(request: pb.SegmentRequest) -> bool:
    """Return whether a prompt of a request has a binary mask."""
    return any(prompt.HasField("mask") for prompt in request.prompts)


def convert_masks(
    request: pb.SegmentRequest, size: tuple[int, int], low_res_size: int, scale: Scale | None
) -> None:
    """Replace the binary mask of each prompt by logits, and by its box if nothing else points.

    Args:
        request: changed in place.
        size: (H, W) of the upright image.
        low_res_size: rows and columns of the logits; 0 if the model takes no masks.
        scale: of the model, which decides the part of the image that is shown.

    Raises:
        ContractError: a mask that is damaged, empty, of another size or beside mask_input, or a
            model that takes none. It names the field.
    """
    tiles = choose_prompt_tiles(request, size, scale)
    for index, prompt in enumerate(request.prompts):
        if not prompt.HasField("mask"):
            continue
        stop_if_abandoned()
        where = f"prompts[{index}].mask"
        if low_res_size == 0 or prompt.HasField("mask_input"):
            raise ContractError.of(
                where,
                got="a mask beside mask_input" if low_res_size else "a mask",
                expected="one of both" if low_res_size else "none, as this model takes none",
                fix="leave one of them out" if low_res_size else "leave it out",
            )
        mask = _read(where, prompt.mask, size)
        box = bbox_from_mask(mask).xyxy
        if not prompt.points and not prompt.HasField("box"):
            x0, y0, x1, y1 = box
            prompt.box.CopyFrom(pb.Box(x0=x0, y0=y0, x1=x1, y1=y1))
        part = tile_around(size, tiles.side, tiles.overlap, _around(box, needed_box(prompt)))
        prompt.mask_input.logits = logits_of_mask(mask, low_res_size, part).astype("<f4").tobytes()
        left, top = part.left, part.top
        prompt.mask_input.part.CopyFrom(pb.Box(x0=left, y0=top, x1=part.right, y1=part.bottom))
        prompt.ClearField("mask")


def _read(where: str, mask: pb.BinaryMask, size: tuple[int, int]) -> NDArray[np.bool_]:
    kind = mask.WhichOneof("format")
    with placed(f"{where}: "):
        if kind == "png":
            pixels = read_foreground(mask.png, max_pixels=size[0] * size[1])
            shape = pixels.shape
        else:
            rle = mask.coco_rle
            shape = rle.size.height, rle.size.width
            # Decoded only at the image's size: others may be too large for memory.
            if shape == size:
                pixels = mask_from_rle(rle.counts.encode(errors="replace"), size)
    if shape != size:
        raise ContractError.of(
            where,
            got=f"a mask of {shape[0]} x {shape[1]} pixels" if kind else "no mask",
            expected=f"{size[0]} x {size[1]}, as the upright image",
            fix="give a mask of the image",
        )
    if not pixels.any():
        raise ContractError.of(
            where, got="an empty mask", expected="at least one pixel", fix="leave the mask out"
        )
    return pixels


def _around(first: Corners, second: Corners) -> Corners:
    return (
        min(first[0], second[0]),
        min(first[1], second[1]),
        max(first[2], second[2]),
        max(first[3], second[3]),
    )
