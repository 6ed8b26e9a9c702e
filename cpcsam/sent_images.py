"""Which images a server should know, so that a client need not send them again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Final

from cpcsam.image_file import ImageLike, encode_image
from cpcsam.results import ImageId
from cpcsam.v1 import segmentation_pb2 as pb

__all__ = ["SentImages"]

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
        if isinstance(image, ImageId):
            return [_with(request, image_id=image)]
        content = encode_image(image)
        image_id = hashlib.sha256(content).hexdigest()
        sent = _with(request, image_bytes=content)
        return [_with(request, image_id=image_id), sent] if image_id in self._ids else [sent]

    def answered(self, response: pb.SegmentResponse) -> None:
        """Remember an image that was answered about."""
        self._ids[response.image_id] = None
        while len(self._ids) > REMEMBERED_IMAGES:
            self._ids.popitem(last=False)

    def forget(self, request: pb.SegmentRequest) -> None:
        """Forget an image that the server did not know any more."""
        self._ids.pop(request.image_id, None)


def _with(request: pb.SegmentRequest, **image: str | bytes) -> pb.SegmentRequest:
    copy = pb.SegmentRequest(**image)  # type: ignore[arg-type]
    copy.MergeFrom(request)
    return copy
