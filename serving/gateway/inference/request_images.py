"""Images of requests, sent as bytes or referenced by the image_id of an earlier request."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from cpcsam.errors import ConfigError, ContractError, CpcSamError
from cpcsam.grpc_errors import NotFoundError
from cpcsam.images.options import Intensity, ReadOptions
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.context import RequestContext
from serving.gateway.inference.embedding_cache import ImageKey
from serving.gateway.inference.image_headers import HeaderReader
from serving.gateway.validation.request import check_image_id

__all__ = ["RequestImage", "RequestImages"]

KNOWN_SIZES: Final = 65_536

_Key: TypeAlias = tuple[str, str, ReadOptions | None]
_Known: TypeAlias = tuple[tuple[int, int], str]


@dataclass(frozen=True)
class RequestImage:
    """Image of a request.

    Attributes:
        key: cache key of its embedding.
        size: (H, W) of the page, upright.
        content: the image file; None if the request only referenced it.
        left_out: a sentence on pages and channels that are not read though nobody chose; empty if
            there are none.
    """

    key: ImageKey
    size: tuple[int, int]
    content: bytes | None
    left_out: str = ""

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

    def __init__(self, headers: HeaderReader) -> None:
        self._headers = headers
        self._known: OrderedDict[_Key, _Known] = OrderedDict()

    async def open(
        self, image: pb.SegmentRequest | pb.Example, context: RequestContext
    ) -> RequestImage:
        """Validate the image of a request by its header, without decoding it.

        Args:
            image: message with the oneof `image`.
            context: of the request.

        Raises:
            ContractError: no image, no header of an accepted format, or no such page.
            LimitError: too many bytes or pixels.
            NotFoundError: an unknown image_id.
        """
        options = _options(image)
        if image.WhichOneof("image") == "image_id":
            check_image_id(image.image_id)
            image_id, content = image.image_id, None
            known = self._known.get((context.principal.tenant, image_id, options))
            if known is None:
                raise _unknown(image_id)
        else:
            content, header, image_id = await self._headers.read(
                partial(getattr, image, "image_bytes"), options, context.permit.client
            )
            known = header.size, header.left_out
        self._remember((context.principal.tenant, image_id, options), known)
        model = await context.model()
        key = ImageKey(context.principal.tenant, model.model_digest, image_id, options=options)
        return RequestImage(key, known[0], content, known[1])

    def _remember(self, key: _Key, known: _Known) -> None:
        # A bounded LRU of its own: sizes are small, and outlive the embeddings.
        self._known[key] = known
        self._known.move_to_end(key)
        if len(self._known) > KNOWN_SIZES:
            self._known.popitem(last=False)


def _options(image: pb.SegmentRequest | pb.Example) -> ReadOptions | None:
    """Return the request's choice of page, channels and intensity, None without any.

    Raises:
        ContractError: a choice that no image has.
    """
    intensity = None
    if image.HasField("intensity"):
        stated = image.intensity
        try:
            intensity = Intensity(stated.policy, stated.low, stated.high)  # type: ignore[arg-type]
        except ConfigError as error:
            raise ContractError(str(error)) from error
    page = image.page if image.HasField("page") else None
    options = ReadOptions(page, tuple(image.channels), intensity)
    return None if options == ReadOptions() else options


def _unknown(image_id: str) -> CpcSamError:
    return NotFoundError.of(
        "image_id",
        got=f"{image_id[:12]}..., which is not known (any more)",
        expected="an image that was sent before",
        fix="send image_bytes again",
    )
