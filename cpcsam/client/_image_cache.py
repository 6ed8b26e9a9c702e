"""Which images a server should know, so that a client need not send them again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Final

from cpcsam.client.images import ImageId, ImageLike, encode_image
from cpcsam.v1 import segmentation_pb2 as pb

__all__ = ["SentImages", "with_image"]

REMEMBERED_IMAGES: Final = 4096


class SentImages:
    """Remembers the images that one server has answered about; may be shared by threads."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()

    def ways(self, request: pb.SegmentRequest, image: ImageLike) -> list[pb.SegmentRequest]:
        """Ways to ask about an image, to be tried in turn while the server does not know it.

        Args:
            request: all but the image.
            image: to be named if the server should know it, else sent.

        Raises:
            ContractError: the image cannot be sent.
        """
        sent = with_image(request, image)
        if isinstance(image, ImageId):
            return [sent]
        image_id = ImageId(hashlib.sha256(sent.image_bytes).hexdigest())
        return [with_image(request, image_id), sent] if image_id in self._ids else [sent]

    def answered(self, response: pb.SegmentResponse) -> None:
        """Remember an image that was answered about."""
        self._ids[response.image_id] = None
        while len(self._ids) > REMEMBERED_IMAGES:
            self._ids.popitem(last=False)

    def forget(self, request: pb.SegmentRequest) -> None:
        """Forget an image that the server did not know any more."""
        self._ids.pop(request.image_id, None)


def with_image(request: pb.SegmentRequest, image: ImageLike) -> pb.SegmentRequest:
    """A copy of a request, with its image.

    Raises:
        ContractError: the image cannot be sent.
    """
    copy = pb.SegmentRequest()
    copy.CopyFrom(request)
    if isinstance(image, ImageId):
        copy.image_id = image
    else:
        copy.image_bytes = encode_image(image)
    return copy
