"""RPCs about the classes of a tenant: list, add from annotated images, remove."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Final

from cpcsam.automatic.class_search import EncodedTile
from cpcsam.automatic.support_set import Coverage, ExampleCollector
from cpcsam.automatic.vocabulary import Vocabulary, build_vocabulary
from cpcsam.errors import ContractError
from cpcsam.geometry import Box
from cpcsam.grpc_errors import ExistsError, LimitError, NotFoundError, PreconditionError
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.context import RequestContext
from serving.gateway.inference.embedder import Embedder
from serving.gateway.inference.request_images import RequestImage, RequestImages
from serving.gateway.scheduling.concurrency import gather_limited
from serving.gateway.vocabulary.examples import SupportSet
from serving.gateway.vocabulary.store import VocabularyStore

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
        """Add a class whose prototypes are computed from annotated images.

        Raises:
            ContractError: an invalid name or example.
            ExistsError: the class exists already.
            ForbiddenError: the principal may not change classes.
            LimitError: too many examples.
        """
        context.principal.require_edit()
        _check_name(request.name)
        if not 1 <= len(request.examples) <= MAX_EXAMPLES:
            kind = LimitError if request.examples else ContractError
            raise kind.of(
                "examples",
                got=len(request.examples),
                expected=f"1 to {MAX_EXAMPLES} annotated images",
                fix="give others",
            )
        known = await self.vocabulary(context)
        _require_new(known, request.name)
        tile = await _tile_size(request, known, context)
        support = SupportSet(await context.model(), self._embedder.limits)
        opened = [await self._images.open(example, context) for example in request.examples]
        parts = [support.admit(image.size, tile) for image in opened]
        annotated = await gather_limited(
            [
                partial(self._embed, f"examples[{index}]", *example, support, context)
                for index, example in enumerate(zip(request.examples, opened, parts, strict=True))
            ]
        )
        model = await _trained_model(context)

        def extend(vocabulary: Vocabulary | None) -> Vocabulary:
            return _extended(vocabulary, request.name, annotated, tile, model)

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
            if vocabulary is None or request.name not in vocabulary.names:
                names = ", ".join(vocabulary.names) if vocabulary is not None else ""
                raise NotFoundError.of(
                    "name",
                    got=repr(request.name[:MAX_NAME_LENGTH]),
                    expected=f"one of {names or 'none, as none is known'}",
                    fix="correct the name",
                )
            return vocabulary.without(request.name)

        model = await _trained_model(context)
        return _response(await self._store.change(context.principal.tenant, model, without))

    async def _embed(
        self,
        where: str,
        example: pb.Example,
        image: RequestImage,
        tiles: Sequence[Box],
        support: SupportSet,
        context: RequestContext,
    ) -> Annotated:
        """Embed the tiles of an annotated image, and tell which of its cells the entities cover."""
        covered = await self._embedder.executors.pixels_of(image.size).run(
            context.permit.client, support.coverages, where, example.entities, image.size, tiles
        )
        async with self._embedder.tiled(image, context) as tiled:
            await tiled.claim(tiles, {})
            shown = await gather_limited([partial(tiled.show, part) for part in tiles])
        return list(zip(shown, covered, strict=True))


async def _tile_size(
    request: pb.AddClassRequest, known: Vocabulary | None, context: RequestContext
) -> int:
    """Return the tile size that all classes of a vocabulary share: the first class decides."""
    if known is not None and known.names:
        return known.tile
    scale = (await context.model()).scale
    if request.HasField("tile_size") or scale is None:
        return request.tile_size
    return scale.window or 0


async def _trained_model(context: RequestContext) -> str:
    return (await context.model()).trained_model


def _extended(
    vocabulary: Vocabulary | None,
    name: str,
    annotated: Sequence[Annotated],
    tile: int,
    model: str,
) -> Vocabulary:
    _require_new(vocabulary, name)
    collector = ExampleCollector([name])
    for part, covered in chain.from_iterable(annotated):
        collector.add_covered(part, covered, lambda _: name)
    examples = collector.examples()
    if vocabulary is None or not vocabulary.names:
        return build_vocabulary([name], examples, model=model, tile=tile)
    # The vocabulary may have changed while the examples were embedded.
    if vocabulary.tile != tile:
        raise PreconditionError.of(
            "tile_size",
            got=f"{tile}, but other classes were added with {vocabulary.tile}",
            expected="no change while the class was added",
            fix="try again",
        )
    return vocabulary.extend(name, examples)


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= MAX_NAME_LENGTH or name != name.strip() or not name.isprintable():
        raise ContractError.of(
            "name",
            got=repr(name[:MAX_NAME_LENGTH]),
            expected=f"1 to {MAX_NAME_LENGTH} printable characters, no space at either end",
            fix="rename the class",
        )


def _require_new(vocabulary: Vocabulary | None, name: str) -> None:
    if vocabulary is not None and name in vocabulary.names:
        raise ExistsError.of(
            "name", got=f"{name!r}, which exists", expected="a new class", fix="rename it"
        )


def _response(vocabulary: Vocabulary | None) -> pb.ListClassesResponse:
    if vocabulary is None:
        return pb.ListClassesResponse()
    counts = [int((vocabulary.owners == index).sum()) for index in range(len(vocabulary.names))]
    return pb.ListClassesResponse(
        classes=[
            pb.ClassInfo(name=name, prototypes=count)
            for name, count in zip(vocabulary.names, counts, strict=True)
        ],
        tile_size=vocabulary.tile,
    )
