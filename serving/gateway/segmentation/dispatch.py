"""Dispatch of a validated request: by prompts, by the names of classes, or everything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.automatic.text_search import ClassSelection
from cpcsam.automatic.vocabulary import Vocabulary
from cpcsam.entry_points import SEGMENT
from cpcsam.errors import ContractError
from cpcsam.grpc_errors import LimitError
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.context import RequestContext
from serving.gateway.inference.request_images import RequestImage
from serving.gateway.limits import Limits
from serving.gateway.phases import POSTPROCESS
from serving.gateway.scheduling.executors import Executors
from serving.gateway.segmentation.by_class import ClassSegmenter
from serving.gateway.segmentation.by_prompts import PromptSegmenter
from serving.gateway.segmentation.mask_generator import EverythingSegmenter, NoRoomError
from serving.gateway.segmentation.responses import instances_response, prompted_response
from serving.gateway.segmentation.tiles import (
    choose_everything_tiles,
    choose_prompt_tiles,
    enlarge_tiles,
    scale_warnings,
)
from serving.gateway.validation.search_config import class_search_config, mask_generator_config
from serving.gateway.vocabulary.service import VocabularyService
from serving.gateway.vocabulary.texts import TextJudge, require_clip

__all__ = ["SegmentationDispatcher"]


class SegmentationDispatcher:
    """Segments by prompts, by classes, or everything, as a request asks."""

    def __init__(
        self,
        by_prompts: PromptSegmenter,
        by_class: ClassSegmenter,
        everything: EverythingSegmenter,
        by_text: TextJudge,
        vocabularies: VocabularyService,
        limits: Limits,
        executors: Executors,
    ) -> None:
        self._by_prompts = by_prompts
        self._by_class = by_class
        self._everything = everything
        self._by_text = by_text
        self._vocabularies = vocabularies
        self._limits = limits
        self._answers = executors.answers

    async def segment(
        self, request: pb.SegmentRequest, image: RequestImage, context: RequestContext
    ) -> pb.SegmentResponse:
        """Segment; the caller adds the fields that do not depend on the masks.

        Raises:
            CpcSamError: as the API documents.
        """
        if request.classes:
            response = await self._segment_classes(request, image, context)
        elif request.HasField("everything"):
            response = await self._segment_everything(request, image, context)
        else:
            response = await self._segment_prompts(request, image, context)
        model = await context.model()
        response.model_name, response.model_version = SEGMENT.name, model.model_version
        return response

    async def _segment_prompts(
        self, request: pb.SegmentRequest, image: RequestImage, context: RequestContext
    ) -> pb.SegmentResponse:
        tiles = choose_prompt_tiles(request, image.size, (await context.model()).scale)
        prompted = await self._by_prompts.segment(image, request, tiles, context)
        with context.phases.measure(POSTPROCESS):
            response = await self._answers.run(
                context.permit.client,
                prompted_response,
                prompted,
                request.prompts,
                image.size,
                request.mask_format,
            )
        response.warnings.extend(tiles.warnings)
        return response

    async def _segment_everything(
        self, request: pb.SegmentRequest, image: RequestImage, context: RequestContext
    ) -> pb.SegmentResponse:
        masks, cached, warnings = await self._everything_masks(request, image, context)
        with context.phases.measure(POSTPROCESS):
            response = await self._answers.run(
                context.permit.client,
                instances_response,
                masks,
                ("",),
                image.size,
                cached,
                request.mask_format,
            )
        response.warnings.extend(warnings)
        return response

    async def _everything_masks(
        self,
        request: pb.SegmentRequest,
        image: RequestImage,
        context: RequestContext,
        taught: int | None = None,
    ) -> tuple[list[InstanceMask], bool, Sequence[str]]:
        """Return masks of everything, whether all came from the cache, and warnings."""
        config = mask_generator_config(request.everything)
        scale = (await context.model()).scale
        tiles = choose_everything_tiles(request, image.size, scale, config, self._limits, taught)
        try:
            masks, cached = await self._everything.segment(image, tiles, config, context)
        except NoRoomError as error:
            if request.HasField("tile_size"):
                raise LimitError(str(error)) from error  # the reason that clients know
            tiles = enlarge_tiles(tiles, 0, image.size, scale)
            masks, cached = await self._everything.segment(image, tiles, config, context)
        return masks, cached, tiles.warnings

    async def _segment_classes(
        self, request: pb.SegmentRequest, image: RequestImage, context: RequestContext
    ) -> pb.SegmentResponse:
        vocabulary = await self._vocabularies.vocabulary(context)
        known = () if vocabulary is None else vocabulary.all_names
        unknown = [name for name in request.classes if name not in known]
        if unknown or vocabulary is None:
            raise _unknown(unknown[0], known)
        masks, cached, warnings = await self._class_masks(request, image, vocabulary, context)
        with context.phases.measure(POSTPROCESS):
            response = await self._answers.run(
                context.permit.client,
                instances_response,
                masks,
                vocabulary.all_names,
                image.size,
                cached,
                request.mask_format,
            )
        response.warnings.extend(warnings)
        return response

    async def _class_masks(
        self,
        request: pb.SegmentRequest,
        image: RequestImage,
        vocabulary: Vocabulary,
        context: RequestContext,
    ) -> tuple[list[InstanceMask], bool, Sequence[str]]:
        """Return the masks of the requested classes, by examples and by text; best first."""
        config, model = class_search_config(request.class_search), await context.model()
        selection = ClassSelection(vocabulary, request.classes, config.min_similarity)
        texts = selection.texts
        clip = None if texts is None else require_clip(model.clip, texts)
        if clip is not None:
            image.require_content()  # crops are cut from pixels: not found out after all decodes
        found, everything = list[InstanceMask](), list[InstanceMask]()
        cached, warnings = True, list[str]()
        # Of classes by text alone, 0 tells nothing.
        taught = vocabulary.tile if vocabulary.names or vocabulary.tile else None
        if taught is not None:
            fix = "remove all classes, and add them again without tile_size"
            warnings += scale_warnings("classes", taught, image.size, model.scale, fix)
        if selection.by_examples:
            found, cached = await self._by_class.segment(
                image, vocabulary, selection.by_examples, config, context
            )
        if selection.by_text:
            # Without a tile_size, of which classes admit 0 alone, as good as none.
            asked = pb.SegmentRequest(everything=request.everything)
            everything, known, further = await self._everything_masks(asked, image, context, taught)
            cached &= known
            warnings += further
        likely = np.zeros((0, 0), np.float32)
        if texts is not None and clip is not None:
            masks = selection.to_compare(found, everything)
            likely = await self._by_text.probabilities(image, masks, texts, clip, context)
        return selection.select(found, everything, likely), cached, warnings


def _unknown(name: str, known: Sequence[str]) -> ContractError:
    return ContractError.of(
        "classes",
        got=repr(name[:80]),
        expected=f"some of {', '.join(known)}" if known else "none, as no class is known",
        fix="correct the name, or teach the class with AddClass",
    )
