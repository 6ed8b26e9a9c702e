"""Requests of mixed kinds: real pictures of many sizes, with 1 to 24 prompts."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from cpcsam.client._protobuf import segment_request
from cpcsam.client.prompts import Prompt
from cpcsam.client.requests import Question
from cpcsam.contract import MaskSelection
from cpcsam.v1 import segmentation_pb2 as pb
from export.real_images import packaged_images

__all__ = ["Task", "draw_prompts", "draw_tasks"]

SMALLEST, LARGEST = 64, 1200
"""Bounds of an image's sides, in pixels."""
PROMPT_COUNTS: Final = (1, 1, 1, 2, 3, 4, 6, 10, 16, 24)
"""Drawn uniformly; more than 16 are split over several calls to Triton."""
MAX_CLICKS: Final = 3
BOXED: Final = 0.3
BACKGROUND: Final = 0.2


@dataclass(frozen=True)
class Task:
    """A request that can be sent repeatedly.

    Attributes:
        image_bytes: an image file.
        size: (H, W) of the image.
        prompts: clicks and boxes.
        mask_selection: masks to return.
    """

    image_bytes: bytes
    size: tuple[int, int]
    prompts: tuple[Prompt, ...]
    mask_selection: MaskSelection

    def file(self, copy: int) -> bytes:
        """The image file; each copy has other bytes, hence a cache miss, and the same pixels."""
        # Decoders read nothing behind an image's end.
        return self.image_bytes + copy.to_bytes(8, "big")

    def request(self, copy: int, request_id: str = "") -> pb.SegmentRequest:
        """The request for a copy of the image."""
        image = self.file(copy)
        question = Question(
            image, self.prompts, mask_selection=self.mask_selection, request_id=request_id
        )
        request = segment_request(question)
        request.image_bytes = image
        return request


def draw_tasks(count: int, seed: int, prompts: Sequence[int] = PROMPT_COUNTS) -> list[Task]:
    """Draw requests about parts of the packaged pictures, each of another size.

    Args:
        count: number of requests, each about another image.
        seed: decides everything.
        prompts: admitted numbers of prompts.

    Raises:
        DataError: there are no such pictures.
    """
    rng = np.random.default_rng(seed)
    pictures = [Image.open(path).convert("RGB") for path in packaged_images()]
    return [_task(pictures[rng.integers(len(pictures))], rng, prompts) for _ in range(count)]


def _task(picture: Image.Image, rng: np.random.Generator, prompts: Sequence[int]) -> Task:
    corner, extent = rng.uniform(0, 0.5, 2), rng.uniform(0.5, 1, 2)
    far = np.minimum(corner + extent, 1)
    sides = np.array(picture.size)
    (left, top), (right, bottom) = (corner * sides).tolist(), (far * sides).tolist()
    width, height = (
        int(side) for side in np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST), 2))
    )
    height = int(np.clip(height, width / 3, 3 * width))
    shown = picture.resize(
        (width, height), Image.Resampling.BICUBIC, box=(left, top, right, bottom)
    )
    file = io.BytesIO()
    if rng.random() < 0.5:
        shown.save(file, "JPEG", quality=90)
    else:
        shown.save(file, "PNG", compress_level=1)
    return Task(
        file.getvalue(),
        (height, width),
        draw_prompts(int(rng.choice(prompts)), (height, width), rng),
        MaskSelection(int(rng.integers(len(MaskSelection)))),
    )


def draw_prompts(count: int, size: tuple[int, int], rng: np.random.Generator) -> tuple[Prompt, ...]:
    """Draw prompts of one to three clicks, some with a box, in an image of size (H, W)."""
    return tuple(_prompt(size, rng) for _ in range(count))


def _prompt(size: tuple[int, int], rng: np.random.Generator) -> Prompt:
    far = np.array(size[::-1], float) - 1
    clicks = rng.uniform(0, far, (int(rng.integers(1, MAX_CLICKS + 1)), 2))
    labels = (1, *(int(rng.random() > BACKGROUND) for _ in clicks[1:]))
    points = tuple((float(x), float(y)) for x, y in clicks)
    if rng.random() >= BOXED:
        return Prompt(points, labels)
    x0, y0 = rng.uniform(0, 0.7, 2) * far
    x1, y1 = np.minimum(np.array([x0, y0]) + rng.uniform(0.1, 0.6, 2) * far + 1, far + 1)
    return Prompt(points, labels, (float(x0), float(y0), float(x1), float(y1)))
