"""RPCs about the classes of a tenant: list, add from annotated images, remove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Final

from cpcsam.automatic.class_search import EncodedTile
from cpcsam.automatic.support_set import Coverage, ExampleCollector
from cpcsam.automatic.vocabulary import Vocabulary, empty_vocabulary
from cpcsam.clip.text_classes import TextClass
from cpcsam.errors import ContractError, placed
from cpcsam.grpc_errors import ExistsError, LimitError, NotFoundError, PreconditionError
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.context import RequestContext
from serving.gateway.inference.embedder import Embedder
from serving.gateway.inference.request_images import RequestImage, RequestImages
from serving.gateway.scheduling.concurrency import gather_limited
from serving.gateway.vocabulary.examples import SupportSet
from serving.gateway.vocabulary.store import VocabularyStore
from serving.gateway.vocabulary.texts import (
    EmbeddedTexts,
    embed_class,
    read_text_class,
    require_clip,
)

__all__ = ["MAX_EXAMPLES", "MAX_NAME_LENGTH", "VocabularyService"]

MAX_NAME_LENGTH: Final = 128
MAX_EXAMPLES: Final = 64
Annotated = list[tuple[EncodedTile, Coverage]]


class VocabularyService:
    """Lists and changes the vocabularies of a gateway's tenants."""

    def __init__(self, store: VocabularyStore, images: RequestImages, embedder: Embedder) -> None:
        self._store = store
        self._images = images
        self._embedder = embedder

    async def vocabulary(self, context: RequestContext) -> Vocabulary | None:
        """Return the tenant's vocabulary; None without any class.

        Raises:
            PreconditionError: as `VocabularyStore.get`.
        """
        return await self._store.get(context.principal.tenant, await _trained_model(context))

    async def list(self, context: RequestContext) -> pb.ListClassesResponse:
        """List the tenant's classes."""
        return _response(await self.vocabulary(context))

    async def add(
        self, request: pb.AddClassRequest, context: RequestContext
    ) -> pb.ListClassesResponse:
        """Add a class by annotated images, by texts, or by both.

        Raises:
            ContractError: an invalid name or example.
            ExistsError: the class exists already.
            ForbiddenError: the principal may not change classes.
            LimitError: too many examples or texts.
            PreconditionError: texts without CLIP's towers, or with others than those of the
                classes known by text.
        """
        context.principal.require_edit()
        _check_name(request.name)
        named = read_text_class(request)
        _check_examples(request, is_needed=named is None)
        known = await self.vocabulary(context)
        _require_new(known, request.name)
        text = None if named is None else await self._embed_texts(named, known, context)
        tile = await _tile_size(request, known, context)
        support = SupportSet(await context.model(), self._embedder.limits)
        opened = []
        for index, example in enumerate(request.examples):
            with placed(f"examples[{index}]."):
                opened.append(await self._images.open(example, context))
            support.admit(opened[-1].size, tile)
        annotated = await gather_limited(
            [
                partial(self._embed, f"examples[{index}]", *example, tile, support, context)
                for index, example in enumerate(zip(request.examples, opened, strict=True))
            ]
        )
        model = await _trained_model(context)

        def extend(vocabulary: Vocabulary | None) -> Vocabulary:
            _require_new(vocabulary, request.name)
            extended = vocabulary or empty_vocabulary(model)
            if not extended.all_names:
                extended = replace(extended, tile=tile)
            if annotated:
                extended = _extended(extended, request.name, annotated, tile)
            return extended if text is None else text.add_to(extended)

        return _response(await self._store.change(context.principal.tenant, model, extend))

    async def remove(
        self, request: pb.RemoveClassRequest, context: RequestContext
    ) -> pb.ListClassesResponse:
        """Remove a class.

        Raises:
            ForbiddenError: the principal may not change classes.
            NotFoundError: there is no such class.
        """
        context.principal.require_edit()

        def without(vocabulary: Vocabulary | None) -> Vocabulary:
            if vocabulary is None or request.name not in vocabulary.all_names:
                names = ", ".join(vocabulary.all_names) if vocabulary is not None else ""
                raise NotFoundError.of(
                    "name",
                    got=repr(request.name[:MAX_NAME_LENGTH]),
                    expected=f"one of {names or 'none, as none is known'}",
                    fix="correct the name",
                )
            return vocabulary.without(request.name)

        model = await _trained_model(context)
        return _response(await self._store.change(context.principal.tenant, model, without))

    async def _embed_texts(
        self, named: TextClass, known: Vocabulary | None, context: RequestContext
    ) -> EmbeddedTexts:
        texts = None if known is None else known.texts
        clip = require_clip((await context.model()).clip, texts)
        return EmbeddedTexts(named, clip, await embed_class(self._embedder.triton, named, context))

    async def _embed(
        self,
        where: str,
        example: pb.Example,
        image: RequestImage,
        tile: int,
        support: SupportSet,
        context: RequestContext,
    ) -> Annotated:
        """Embed the tiles of an annotated image, and tell which of its cells the entities cover."""
        covered = await self._embedder.executors.pixels_of(image.size).run(
            context.permit.client, support.coverages, where, example.entities, image.size, tile
        )
        tiles = [part for part, _ in covered]
        async with self._embedder.tiled(image, context) as tiled:
            await tiled.claim(tiles, {})
            shown = await gather_limited([partial(tiled.show, part) for part in tiles])
        return [(one, coverage) for one, (_, coverage) in zip(shown, covered, strict=True)]


async def _tile_size(
    request: pb.AddClassRequest, known: Vocabulary | None, context: RequestContext
) -> int:
    """Return the tile size that all classes of a vocabulary share: the first class decides."""
    if known is not None and (
        known.names or (known.all_names and not request.HasField("tile_size"))
    ):
        return known.tile
    scale = (await context.model()).scale
    if request.HasField("tile_size") or scale is None:
        return request.tile_size
    return scale.window or 0


async def _trained_model(context: RequestContext) -> str:
    return (await context.model()).trained_model


def _check_examples(request: pb.AddClassRequest, *, is_needed: bool) -> None:
    if int(is_needed) <= len(request.examples) <= MAX_EXAMPLES:
        return
    kind = LimitError if request.examples else ContractError
    raise kind.of(
        "examples",
        got=len(request.examples),
        expected=f"1 to {MAX_EXAMPLES} annotated images, or texts instead",
        fix="give others",
    )


def _extended(
    vocabulary: Vocabulary,
    name: str,
    annotated: Sequence[Annotated],
    tile: int,
) -> Vocabulary:
    collector = ExampleCollector([name])
    for part, covered in chain.from_iterable(annotated):
        collector.add_covered(part, covered, lambda _: name)
    if not vocabulary.names:
        vocabulary = replace(vocabulary, tile=tile)
    # The vocabulary may have changed while the examples were embedded.
    if vocabulary.tile != tile:
        raise PreconditionError.of(
            "tile_size",
            got=f"{tile}, but other classes were added with {vocabulary.tile}",
            expected="no change while the class was added",
            fix="try again",
        )
    return vocabulary.extend(name, collector.examples())


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= MAX_NAME_LENGTH or name != name.strip() or not name.isprintable():
        raise ContractError.of(
            "name",
            got=repr(name[:MAX_NAME_LENGTH]),
            expected=f"1 to {MAX_NAME_LENGTH} printable characters, no space at either end",
            fix="rename the class",
        )


def _require_new(vocabulary: Vocabulary | None, name: str) -> None:
    if vocabulary is not None and name in vocabulary.all_names:
        raise ExistsError.of(
            "name", got=f"{name!r}, which exists", expected="a new class", fix="rename it"
        )


def _response(vocabulary: Vocabulary | None) -> pb.ListClassesResponse:
    if vocabulary is None:
        return pb.ListClassesResponse()
    response = pb.ListClassesResponse(tile_size=vocabulary.tile)
    texts = {} if vocabulary.texts is None else {one.name: one for one in vocabulary.texts.classes}
    for index, name in enumerate(vocabulary.all_names):
        # No prototype belongs to the index of a class by text alone.
        count = int((vocabulary.owners == index).sum())
        known = response.classes.add(name=name, prototypes=count)
        if name in texts:
            known.texts.extend(texts[name].texts)
            known.negatives.extend(texts[name].negatives)
    return response
