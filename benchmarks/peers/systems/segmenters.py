"""Models in process: what they share, official SAM and ONNX Runtime without a server.

They keep the embeddings of known images by their id, as a service around SamPredictor would: with
set_image alone, clients with several images would encode each again and again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.load.workloads import Request
from cpcsam.contract import PointLabel
from cpcsam.errors import ServingError

__all__ = [
    "MIN_IOU",
    "MIN_STABILITY",
    "Embeddings",
    "Segmenter",
    "prompt_arrays",
]

MIN_IOU: Final = 0.5
"""Least predicted IoU of automatic masks: random weights and the compact base reach no 0.88."""
MIN_STABILITY: Final = 0.5
CACHED_IMAGES: Final = 64

Bools = NDArray[np.bool_]
E = TypeVar("E")


class Segmenter(Protocol):
    """A model in this process; not safe for several threads."""

    def segment(self, request: Request) -> Sequence[Bools]:
        """Answer each prompt, or the grid, by masks (H, W) bool."""


class Embeddings(Generic[E]):
    """LRU cache of what an image is encoded to, by image id."""

    def __init__(self, encode: Callable[[bytes], E], size: int = CACHED_IMAGES) -> None:
        self._encode, self._size = encode, size
        self._entries: OrderedDict[str, E] = OrderedDict()

    def of(self, request: Request) -> E:
        """Return the entry of a request's image, encoding an image that is not known.

        Raises:
            ServingError: the request says that the image is known, and it is not.
        """
        if request.image_id not in self._entries:
            if request.known:
                raise ServingError.of(
                    "image_id", got=request.image_id, expected="a known image", fix="send it again"
                )
            self._entries[request.image_id] = self._encode(request.image)
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)
        self._entries.move_to_end(request.image_id)
        return self._entries[request.image_id]


def prompt_arrays(request: Request) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return point_coords (P, N, 2), pixels of the image, and point_labels (P, N); boxes follow.

    All prompts of a request are of one kind: N is 1 for clicks and 2 for boxes.
    """
    if request.prompts[0].box is not None:
        coords = np.array([prompt.box for prompt in request.prompts], np.float32)
        corners = [PointLabel.BOX_TOP_LEFT, PointLabel.BOX_BOTTOM_RIGHT]
        return coords.reshape(-1, 2, 2), np.tile(corners, (len(coords), 1)).astype(np.int32)
    clicks = np.array([prompt.point_coords for prompt in request.prompts], np.float32)
    return clicks, np.array([prompt.point_labels for prompt in request.prompts], np.int32)
