"""Texts of classes: read from a request, embedded by CLIP in Triton, compared with masks."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.automatic.text_search import resized_crops
from cpcsam.automatic.vocabulary import Vocabulary
from cpcsam.clip.preprocess import ClipInfo
from cpcsam.clip.text_classes import TextClass, TextClasses, phrases_of, pool_phrases
from cpcsam.entry_points import CLIP, CLIP_CROPS, CLIP_EMBEDDINGS, CLIP_TEXTS
from cpcsam.errors import ContractError
from cpcsam.grpc_errors import LimitError, PreconditionError
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.context import RequestContext
from serving.gateway.inference.embedder import Embedder
from serving.gateway.inference.request_images import RequestImage
from serving.gateway.inference.triton_client import TritonClient
from serving.gateway.inference.triton_requests import InputTensor, infer_input
from serving.gateway.inference.triton_responses import output
from serving.gateway.phases import POSTPROCESS
from serving.gateway.scheduling.concurrency import gather_limited

__all__ = ["EmbeddedTexts", "TextJudge", "embed_class", "read_text_class", "require_clip"]

MAX_TEXTS: Final = 32
"""Texts of a class, and also negatives."""
MAX_TEXT_LENGTH: Final = 256
CROPS_A_CALL: Final = 32
TEXTS_A_CALL: Final = 64


@dataclass(frozen=True)
class EmbeddedTexts:
    """A new class with the embeddings of its texts.

    Attributes:
        named: the class.
        clip: the towers that embedded them.
        embeddings: (n, d) float32, of `named.all_texts`.
    """

    named: TextClass
    clip: ClipInfo
    embeddings: NDArray[np.float32]

    def add_to(self, vocabulary: Vocabulary) -> Vocabulary:
        """Add the texts to a vocabulary, which may have changed since they were embedded.

        Raises:
            PreconditionError: as `require_clip`.
        """
        known, clip = vocabulary.texts, self.clip
        require_clip(clip, known)
        if known is None or not known.classes:
            known = TextClasses.empty(clip.digest, clip.logit_scale, clip.embed_dim)
        return replace(vocabulary, texts=known.add(self.named, self.embeddings))


def read_text_class(request: pb.AddClassRequest) -> TextClass | None:
    """Read the texts of a new class; None without any.

    Raises:
        ContractError: negatives without texts, or a text that is empty or not printable.
        LimitError: too many texts.
    """
    if not request.texts and not request.negatives:
        return None
    if not request.texts:
        raise ContractError.of(
            "negatives", got="no texts beside them", expected="texts", fix="name the class by texts"
        )
    for field in ("texts", "negatives"):
        texts = getattr(request, field)
        if len(texts) > MAX_TEXTS:
            raise LimitError.of(
                field, got=len(texts), expected=f"at most {MAX_TEXTS}", fix="leave some out"
            )
        for index, text in enumerate(texts):
            if not 1 <= len(text) <= MAX_TEXT_LENGTH or not text.isprintable() or text.isspace():
                raise ContractError.of(
                    f"{field}[{index}]",
                    got=repr(text[:MAX_TEXT_LENGTH]),
                    expected=f"1 to {MAX_TEXT_LENGTH} printable characters",
                    fix="correct the text",
                )
    return TextClass(request.name, tuple(request.texts), tuple(request.negatives))


def require_clip(clip: ClipInfo | None, texts: TextClasses | None) -> ClipInfo:
    """Return the towers that are served, which have to be those of the known classes.

    Args:
        clip: that is served, if any.
        texts: the known classes by text, if any.

    Raises:
        PreconditionError: no towers are served, or others than the classes were added with.
    """
    if clip is None:
        raise PreconditionError.of(
            "texts",
            got="a model repository without CLIP's towers",
            expected="towers, which compare masks with texts",
            fix="have the operator export them by python -m export.text_encoder, and publish them "
            "by python -m export.repository publish --clip",
        )
    if texts is not None and texts.classes and texts.towers != clip.digest:
        raise PreconditionError.of(
            "classes by text",
            got=f"embeddings of the towers {texts.towers[:12]}",
            expected=f"those of {clip.name}, {clip.digest[:12]}, which is served",
            fix="remove these classes and add them again, or have the operator publish the towers "
            "that they were added with",
        )
    return clip


class TextJudge:
    """Compares masks with the texts of classes, for one gateway."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def probabilities(
        self,
        image: RequestImage,
        masks: Sequence[InstanceMask],
        texts: TextClasses,
        clip: ClipInfo,
        context: RequestContext,
    ) -> NDArray[np.float32]:
        """Return the probability of each class by text for each mask, (n, C).

        Args:
            image: of the request.
            masks: of the image.
            texts: the classes.
            clip: the towers that are served, those of the classes.
            context: of the request.

        Raises:
            NotFoundError: the image was given by image_id alone, and its pixels are needed.
        """
        if not masks:
            return np.zeros((0, len(texts.classes)), np.float32)
        batches = [masks[i : i + CROPS_A_CALL] for i in range(0, len(masks), CROPS_A_CALL)]
        async with self._embedder.tiled(image, context) as tiled:
            pixels = await tiled.pixels()

            async def embed(batch: Sequence[InstanceMask]) -> NDArray[np.float32]:
                with context.phases.measure(POSTPROCESS):
                    crops = await self._embedder.executors.pixels.run(
                        context.permit.client,
                        resized_crops,
                        pixels,
                        [mask.bbox for mask in batch],
                        clip.preprocess,
                    )
                return await _embed_crops(self._embedder.triton, crops, context)

            embedded = await gather_limited([partial(embed, batch) for batch in batches])
        return texts.probabilities(np.concatenate(embedded))


async def embed_class(
    triton: TritonClient, new: TextClass, context: RequestContext
) -> NDArray[np.float32]:
    """Embed the texts of a class, each averaged over the templates.

    Returns:
        (n, d) float32 of unit length, of `new.all_texts`.
    """
    phrases = phrases_of(new.all_texts)
    parts = [
        _texts_input(phrases[start : start + TEXTS_A_CALL])
        for start in range(0, len(phrases), TEXTS_A_CALL)
    ]
    embedded = await gather_limited([partial(_embed, triton, part, context) for part in parts])
    return pool_phrases(np.concatenate(embedded))


async def _embed_crops(
    triton: TritonClient, crops: NDArray[np.uint8], context: RequestContext
) -> NDArray[np.float32]:
    """Embed crops that are resized already.

    Args:
        triton: serves the model.
        crops: (n, C, C, 3) uint8, at most `CROPS_A_CALL`.
        context: of the request.

    Returns:
        (n, d) float32 of unit length.
    """
    return await _embed(triton, infer_input(CLIP_CROPS.name, crops[None]), context)


async def _embed(
    triton: TritonClient, tensor: InputTensor, context: RequestContext
) -> NDArray[np.float32]:
    name = CLIP_EMBEDDINGS.name
    result = await triton.infer_anywhere(CLIP.name, [tensor], (name,), context)
    embeddings: NDArray[np.float32] = output(result, name)[0]
    return embeddings


def _texts_input(texts: Sequence[str]) -> InputTensor:
    pieces: list[bytes | memoryview] = []
    for text in texts:
        content = text.encode()
        pieces += [struct.pack("<I", len(content)), content]
    return InputTensor(CLIP_TEXTS.name, "BYTES", (1, len(texts)), tuple(pieces))
