"""Images of requests, sent as bytes or referenced by the image_id of an earlier request."""

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

__all__ = ["RequestImage", "RequestImages"]

HASHED_INLINE: Final = 256 * 1024
"""Size in bytes below which hashing takes less time than starting a thread."""
KNOWN_SIZES: Final = 65_536


@dataclass(frozen=True)
class RequestImage:
    """Image of a request.

    Attributes:
        key: cache key of its embedding.
        size: (H, W) after EXIF orientation.
        content: the image file; None if the request only referenced it.
    """

    key: ImageKey
    size: tuple[int, int]
    content: bytes | None

    def require_content(self) -> bytes:
        """Return the image file.

        Raises:
            NotFoundError: the request only referenced it.
        """
        if self.content is None:
            raise _unknown(self.key.image_id)
        return self.content


class RequestImages:
    """Opens the images of requests and remembers their sizes; to be used inside one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._sizes: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()

    async def open(
        self, image: pb.SegmentRequest | pb.Example, context: RequestContext
    ) -> RequestImage:
        """Validate the image of a request by its header, without decoding it.

        Args:
            image: message with the oneof `image`.
            context: of the request.

        Raises:
            ContractError: no image, or no header of an accepted format.
            LimitError: too many bytes or pixels.
            NotFoundError: an unknown image_id.
        """
        if image.WhichOneof("image") == "image_id":
            check_image_id(image.image_id)
            image_id, content = image.image_id, None
            size = self._sizes.get((context.principal.tenant, image_id))
            if size is None:
                raise _unknown(image_id)
        else:
            # The header comes before the hash, so that no oversized file is hashed.
            content = image.image_bytes
            size = original_size_of(content, self._limits)
            image_id = await _sha256(content)
        self._remember(context.principal.tenant, image_id, size)
        model = await context.model()
        return RequestImage(
            ImageKey(context.principal.tenant, model.model_digest, image_id), size, content
        )

    def _remember(self, tenant: str, image_id: str, size: tuple[int, int]) -> None:
        # A bounded LRU of its own: sizes are small, and outlive the embeddings.
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
