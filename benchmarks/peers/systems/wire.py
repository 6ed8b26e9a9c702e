"""JSON form of requests and masks, as LitServe's users send them: base64 files and COCO RLE."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers.load.masks import Mask, counts_of
from benchmarks.peers.load.workloads import Request
from cpcsam.client.prompts import Prompt
from cpcsam.errors import ContractError

__all__ = ["masks_from_json", "masks_to_json", "request_from_json", "request_to_json"]


def request_to_json(request: Request) -> dict[str, Any]:
    """Write a request as plain data; a known image is named by its id alone."""
    prompts = [
        {"points": prompt.point_coords, "labels": prompt.point_labels, "box": prompt.box}
        for prompt in request.prompts
    ]
    body = {"size": request.size, "prompts": prompts, "points_per_side": request.grid}
    if request.known:
        return {**body, "image_id": request.image_id}
    return {**body, "image": base64.b64encode(request.image).decode()}


def request_from_json(body: Mapping[str, Any]) -> Request:
    """Read a request; the inverse of `request_to_json` but for the file of a known image.

    Raises:
        ContractError: a part is missing or of another form.
    """
    try:
        prompts = tuple(
            Prompt(
                tuple((float(x), float(y)) for x, y in prompt["points"]),
                tuple(prompt["labels"]),
                tuple(prompt["box"]) if prompt["box"] else None,
            )
            for prompt in body["prompts"]
        )
        height, width = body["size"]
        known = "image_id" in body
        image = b"" if known else base64.b64decode(body["image"], validate=True)
        request = Request(image, (height, width), prompts, body["points_per_side"], known)
        if known:
            object.__setattr__(request, "image_id", body["image_id"])
        return request
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise ContractError.of(
            "request", got=repr(error), expected="size, prompts, image", fix="send all of them"
        ) from error


def masks_to_json(masks: Sequence[Mask]) -> list[str]:
    """Write masks as `counts` strings."""
    return [counts_of(mask).decode() for mask in masks]


def masks_from_json(counts: Sequence[str]) -> list[bytes]:
    """Read masks as `counts`; the inverse of `masks_to_json`."""
    return [mask.encode() for mask in counts]
