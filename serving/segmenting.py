"""From a checked request to its answer: by prompts, or by the names of classes."""

from __future__ import annotations

from collections.abc import Sequence

from cpcsam.contract import SEGMENT
from cpcsam.errors import ConfigError, ContractError
from cpcsam.tile_search import AutoSettings
from cpcsam.v1 import segmentation_pb2 as pb
from serving.answer import found_response, prompted_response
from serving.call import Call
from serving.class_desk import ClassDesk
from serving.class_search import ClassSearch
from serving.images import RequestImage
from serving.prompting import Prompting
from serving.triton_client import TritonClient

__all__ = ["Segmenting"]


class Segmenting:
    """Segments images for one gateway."""

    def __init__(
        self,
        triton: TritonClient,
        prompting: Prompting,
        search: ClassSearch,
        classes: ClassDesk,
    ) -> None:
        self._triton = triton
        self._prompting = prompting
        self._search = search
        self._classes = classes

    async def answer(
        self, request: pb.SegmentRequest, image: RequestImage, call: Call
    ) -> pb.SegmentResponse:
        """Segment; the answer lacks what does not depend on the masks.

        Raises:
            CpcSamError: as the API documents.
        """
        if request.classes:
            response = await self._by_class(request, image, call)
        else:
            found = await self._prompting.masks(
                image, request.prompts, request.mask_selection, call
            )
            response = prompted_response(found, image.size)
        facts = await self._triton.facts(call.remaining_s)
        response.model_name, response.model_version = SEGMENT.name, facts.model_version
        return response

    async def _by_class(
        self, request: pb.SegmentRequest, image: RequestImage, call: Call
    ) -> pb.SegmentResponse:
        vocabulary = await self._classes.vocabulary(call)
        known = () if vocabulary is None else vocabulary.names
        unknown = [name for name in request.classes if name not in known]
        if unknown or vocabulary is None:
            raise _unknown(unknown[0], known)
        found, cached = await self._search.find(
            image, vocabulary, request.classes, _settings(request), call
        )
        return found_response(found, vocabulary.names, image.size, cached)


def _settings(request: pb.SegmentRequest) -> AutoSettings:
    given = {field.name: float(value) for field, value in request.class_search.ListFields()}
    try:
        return AutoSettings(**given)  # type: ignore[arg-type]
    except ConfigError as error:
        raise ContractError(f"class_search.{error}") from error


def _unknown(name: str, known: Sequence[str]) -> ContractError:
    return ContractError.of(
        "classes",
        got=repr(name[:80]),
        expected=f"some of {', '.join(known)}" if known else "none, as no class is known",
        fix="correct the name, or teach the class with AddClass",
    )
