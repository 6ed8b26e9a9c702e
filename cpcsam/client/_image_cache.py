"""FIFO cache of the image ids that a server knows, so that image bytes are sent only once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Final

from cpcsam.client._protobuf import message_of
from cpcsam.client.images import ImageId, ImageLike, encode_image
from cpcsam.v1 import segmentation_pb2 as pb

__all__ = ["ImageIdCache", "with_image"]

MAX_IMAGE_IDS: Final = 4096


class ImageIdCache:
    """Ids of the images that a server has answered requests for; thread-safe."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()

    def candidates(self, request: pb.SegmentRequest, image: ImageLike) -> list[pb.SegmentRequest]:
        """Return requests to try in order: by cached image_id first, then with the image bytes.

        Args:
            request: without its image.
            image: sent by id only if it is an ImageId.

        Raises:
            ContractError: the image cannot be sent.
        """
        complete = with_image(request, image)
        if isinstance(image, ImageId):
            return [complete]
        image_id = ImageId(hashlib.sha256(complete.image_bytes).hexdigest())
        known = image_id in self._ids
        return [with_image(request, image_id), complete] if known else [complete]

    def add(self, response: pb.SegmentResponse) -> None:
        """Add the image of a response, evicting the oldest beyond the capacity."""
        self._ids[response.image_id] = None
        while len(self._ids) > MAX_IMAGE_IDS:
            self._ids.popitem(last=False)

    def discard(self, request: pb.SegmentRequest) -> None:
        """Remove the image of a request, if present, which the server no longer knows."""
        self._ids.pop(request.image_id, None)


def with_image(request: pb.SegmentRequest, image: ImageLike) -> pb.SegmentRequest:
    """Copy a request and set its image, by id or as the bytes of a file.

    Raises:
        ContractError: the image cannot be sent.
    """
    copy = pb.SegmentRequest()
    copy.CopyFrom(request)
    if isinstance(image, ImageId):
        copy.MergeFrom(message_of(pb.SegmentRequest, image_id=image))
    else:
        copy.image_bytes = encode_image(image)
    return copy
