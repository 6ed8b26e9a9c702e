"""From a checked request to its answer: by prompts, by the names of classes, or everything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from google.protobuf.message import Message

from cpcsam.automatic.class_search import AutoSettings
from cpcsam.automatic.mask_generator import EverythingSettings
from cpcsam.contract import SEGMENT
from cpcsam.errors import ConfigError, ContractError
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.context import RequestContext
from serving.gateway.inference.request_images import RequestImage
from serving.gateway.segmentation.by_class import ClassSearch
from serving.gateway.segmentation.by_prompts import Prompting
from serving.gateway.segmentation.mask_generator import EverythingSearch
from serving.gateway.segmentation.responses import found_response, prompted_response
from serving.gateway.vocabulary.service import VocabularyService

__all__ = ["Segmenting"]

Settings = TypeVar("Settings", AutoSettings, EverythingSettings)


class Segmenting:
    """Segments images for one gateway."""

    def __init__(
        self,
        prompting: Prompting,
        search: ClassSearch,
        everything: EverythingSearch,
        classes: VocabularyService,
    ) -> None:
        self._prompting = prompting
        self._search = search
        self._everything = everything
        self._classes = classes

    async def answer(
        self, request: pb.SegmentRequest, image: RequestImage, context: RequestContext
    ) -> pb.SegmentResponse:
        """Segment; the answer lacks what does not depend on the masks.

        Raises:
            CpcSamError: as the API documents.
        """
        if request.classes:
            response = await self._by_class(request, image, context)
        elif request.HasField("everything"):
            settings = _settings(EverythingSettings, "everything", request.everything)
            found, cached = await self._everything.find(image, request, settings, context)
            response = await asyncio.to_thread(
                found_response, found, ("",), image.size, cached, request.mask_format
            )
        else:
            prompted = await self._prompting.masks(image, request, context)
            response = await asyncio.to_thread(
                prompted_response, prompted, image.size, request.mask_format
            )
        model = await context.model()
        response.model_name, response.model_version = SEGMENT.name, model.model_version
        return response

    async def _by_class(
        self, request: pb.SegmentRequest, image: RequestImage, context: RequestContext
    ) -> pb.SegmentResponse:
        vocabulary = await self._classes.vocabulary(context)
        known = () if vocabulary is None else vocabulary.names
        unknown = [name for name in request.classes if name not in known]
        if unknown or vocabulary is None:
            raise _unknown(unknown[0], known)
        settings = _settings(AutoSettings, "class_search", request.class_search)
        found, cached = await self._search.find(
            image, vocabulary, request.classes, settings, context
        )
        return await asyncio.to_thread(
            found_response, found, vocabulary.names, image.size, cached, request.mask_format
        )


def _settings(kind: Callable[..., Settings], where: str, given: Message) -> Settings:
    """Settings with the fields that a message sets."""
    try:
        return kind(**{field.name: value for field, value in given.ListFields()})
    except ConfigError as error:
        raise ContractError(f"{where}.{error}") from error


def _unknown(name: str, known: Sequence[str]) -> ContractError:
    return ContractError.of(
        "classes",
        got=repr(name[:80]),
        expected=f"some of {', '.join(known)}" if known else "none, as no class is known",
        fix="correct the name, or teach the class with AddClass",
    )
