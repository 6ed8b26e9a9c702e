"""The images of requests: sent along, or named because they were sent before."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from cpcsam.errors import CpcSamError
from cpcsam.grpc_errors import NotFoundError
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.context import RequestContext
from serving.gateway.inference.embedding_cache import ImageKey
from serving.gateway.limits import Limits
from serving.gateway.validation.request import check_image_id, original_size_of

__all__ = ["RequestImages", "RequestImage"]

HASHED_INLINE: Final = 256 * 1024
"""Bytes that are hashed in less time than another thread would take to begin."""
KNOWN_SIZES: Final = 65_536


@dataclass(frozen=True)
class RequestImage:
    """The image of a request.

    Attributes:
        key: what its embedding is known by.
        size: (H, W), upright.
        content: the image file; None if the request only named it.
    """

    key: ImageKey
    size: tuple[int, int]
    content: bytes | None

    def require_content(self) -> bytes:
        """The image file.

        Raises:
            NotFoundError: the request did not bring it.
        """
        if self.content is None:
            raise _unknown(self.key.image_id)
        return self.content


class RequestImages:
    """Takes images in, and remembers how large they were; to be used inside one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._sizes: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()

    async def open(
        self, image: pb.SegmentRequest | pb.Example, context: RequestContext
    ) -> RequestImage:
        """Check the image of a request, without decoding it.

        Args:
            image: a message with the oneof `image`.
            context: of the request.

        Raises:
            ContractError: no image, or no header of an accepted format.
            LimitError: too many bytes or pixels.
            NotFoundError: an image that is named but not known.
        """
        if image.WhichOneof("image") == "image_id":
            check_image_id(image.image_id)
            image_id, content = image.image_id, None
            size = self._sizes.get((context.principal.tenant, image_id))
            if size is None:
                raise _unknown(image_id)
        else:
            content = image.image_bytes
            size = original_size_of(content, self._limits)
            image_id = await _sha256(content)
        self._remember(context.principal.tenant, image_id, size)
        model = await context.model()
        return RequestImage(
            ImageKey(context.principal.tenant, model.model_digest, image_id), size, content
        )

    def _remember(self, tenant: str, image_id: str, size: tuple[int, int]) -> None:
        self._sizes[tenant, image_id] = size
        self._sizes.move_to_end((tenant, image_id))
        if len(self._sizes) > KNOWN_SIZES:
            self._sizes.popitem(last=False)


async def _sha256(content: bytes) -> str:
    if len(content) <= HASHED_INLINE:
        return hashlib.sha256(content).hexdigest()
    return await asyncio.to_thread(lambda: hashlib.sha256(content).hexdigest())


def _unknown(image_id: str) -> CpcSamError:
    return NotFoundError.of(
        "image_id",
        got=f"{image_id[:12]}..., which is not known (any more)",
        expected="an image that was sent before",
        fix="send image_bytes again",
    )
