"""Workloads: the same images and prompts for every system, drawn from seeds."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final

import numpy as np
from PIL import Image, ImageOps

from cpcsam.client.prompts import Prompt
from export.real_images import packaged_images

__all__ = [
    "BOX",
    "CLICK",
    "EVERYTHING",
    "Request",
    "Workload",
    "first_requests",
    "requests_of",
]

CLICK: Final = "click"
BOX: Final = "box"
EVERYTHING: Final = "everything"
KNOWN_IMAGES: Final = 4
"""Images that several clients repeat; a single client repeats one."""


@dataclass(frozen=True)
class Workload:
    """A number of similar requests.

    Attributes:
        name: for reports and files.
        kind: of the prompts: CLICK, BOX or EVERYTHING.
        count: number of requests; of an open loop it follows from `seconds` and the rate.
        new: every request brings an image that the system has not seen.
        clients: number of clients, each with one request in flight.
        prompts: of a request; of EVERYTHING, clicks along a side of the grid.
        side: of the square images, in pixels.
        load: offered load as a share of the system's own throughput with 8 clients, in an open
            loop; 0 for a closed loop.
        seconds: duration of an open loop.
    """

    name: str
    kind: str = CLICK
    count: int = 1
    new: bool = True
    clients: int = 1
    prompts: int = 1
    side: int = 512
    load: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Request:
    """One request to any system.

    Attributes:
        image: a JPEG file.
        size: (H, W) of the image.
        prompts: clicks or boxes; each gets one mask.
        grid: clicks along a side of the grid of automatic masks, instead of prompts; 0 for none.
        known: the system has seen the image, so its id is enough.
        image_id: SHA-256 of the file in hexadecimal.
    """

    image: bytes = field(repr=False)
    size: tuple[int, int]
    prompts: tuple[Prompt, ...] = ()
    grid: int = 0
    known: bool = False
    image_id: str = field(init=False)

    def __post_init__(self) -> None:
        """Hash the file, which would otherwise count as time of the system."""
        object.__setattr__(self, "image_id", hashlib.sha256(self.image).hexdigest())


def requests_of(workload: Workload, count: int | None = None, start: int = 0) -> list[Request]:
    """Draw a workload's requests; equal arguments draw equal requests.

    Args:
        workload: of requests.
        count: number of them; None takes the workload's.
        start: number of the first; new images differ from number to number.
    """
    total = workload.count if count is None else count
    return [_request(workload, number) for number in range(start, start + total)]


def first_requests(workload: Workload) -> list[Request]:
    """Requests that make a workload's repeated images known; none if its images are new."""
    if workload.new:
        return []
    size = (workload.side, workload.side)
    prompt = (Prompt.click(workload.side / 2, workload.side / 2),)
    return [Request(_file(workload, index), size, prompt) for index in range(_repeated(workload))]


def _request(workload: Workload, number: int) -> Request:
    size = (workload.side, workload.side)
    file = _file(workload, number)
    if workload.kind == EVERYTHING:
        return Request(file, size, grid=workload.prompts)
    rng = np.random.default_rng((_key(workload), number))
    draw = _click if workload.kind == CLICK else _box
    prompts = tuple(draw(workload.side, rng) for _ in range(workload.prompts))
    return Request(file, size, prompts, known=not workload.new)


def _file(workload: Workload, number: int) -> bytes:
    pictures = _pictures(workload.side)
    if not workload.new:
        return pictures[number % _repeated(workload)]
    # Decoders read nothing behind an image's end, so equal pixels get another id each time.
    return pictures[number % len(pictures)] + f"{workload.name} {number}".encode()


def _repeated(workload: Workload) -> int:
    return 1 if workload.clients == 1 else KNOWN_IMAGES


def _key(workload: Workload) -> int:
    return zlib.crc32(workload.name.encode())


@cache
def _pictures(side: int) -> Sequence[bytes]:
    """Packaged images, cropped to squares of a side, as JPEG files."""
    files = []
    for path in packaged_images():
        file = io.BytesIO()
        picture = ImageOps.fit(Image.open(path).convert("RGB"), (side, side))
        picture.save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def _click(side: int, rng: np.random.Generator) -> Prompt:
    x, y = rng.uniform(0.1, 0.9, 2) * side
    return Prompt.click(float(x), float(y))


def _box(side: int, rng: np.random.Generator) -> Prompt:
    x0, y0 = rng.uniform(0.02, 0.7, 2) * side
    width, height = rng.uniform(0.05, 0.25, 2) * side
    return Prompt(box=(float(x0), float(y0), float(x0 + width), float(y0 + height)))
