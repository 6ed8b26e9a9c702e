"""Search for classes by text: masks of everything, compared with texts by their crops.

`ClassSelection` decides which masks stay, here by torch's or ONNX Runtime's embeddings and in the
gateway by Triton's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.config import ClassSearchConfig, MaskGeneratorConfig
from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.automatic.mask_generator import AutomaticMaskGenerator
from cpcsam.automatic.predictor import segment_image
from cpcsam.automatic.vocabulary import Vocabulary
from cpcsam.backends.protocol import Backend
from cpcsam.clip.preprocess import ClipInfo, Preprocess
from cpcsam.clip.text_classes import TextClasses
from cpcsam.errors import ArtifactError
from cpcsam.geometry import Box

__all__ = [
    "ClassSelection",
    "CropEncoder",
    "embed_boxes",
    "require_towers",
    "resized_crops",
    "segment_vocabulary",
]

BATCH = 32
Array = NDArray[np.float32]


class CropEncoder(Protocol):
    """CLIP's image tower, such as `OnnxTowers`."""

    info: ClipInfo

    def embed_crops(self, crops: NDArray[np.uint8]) -> Array:
        """Embed (n, S, S, 3) uint8 to (n, d) float32 of unit length."""


def resized_crops(
    image: NDArray[np.uint8], boxes: Sequence[Box], preprocess: Preprocess
) -> NDArray[np.uint8]:
    """Cut and resize the square around each box, background included.

    Args:
        image: (H, W, 3) uint8, RGB.
        boxes: of masks.
        preprocess: of the image tower.

    Returns:
        (n, S, S, 3) uint8.
    """
    side = preprocess.image_size
    crops = np.zeros((len(boxes), side, side, 3), np.uint8)
    for row, box in zip(crops, boxes, strict=True):
        row[:] = preprocess.crop(image, box)
    return crops


def embed_boxes(image: NDArray[np.uint8], boxes: Sequence[Box], towers: CropEncoder) -> Array:
    """Embed the squares around boxes; (n, d) float32 of unit length."""
    parts = [
        towers.embed_crops(
            resized_crops(image, boxes[start : start + BATCH], towers.info.preprocess)
        )
        for start in range(0, len(boxes), BATCH)
    ]
    return np.concatenate([np.zeros((0, towers.info.embed_dim), np.float32), *parts])


@dataclass(frozen=True)
class ClassSelection:
    """Selection of the masks of some classes: by examples, by texts, or by both.

    Examples find the masks of their classes themselves. For classes by text alone, each mask of
    everything goes to the likeliest of them. A class with both has to be likely by its texts, too.

    Attributes:
        vocabulary: with the classes.
        names: of the classes to find, of `vocabulary.all_names`.
        least: probability by text below which a mask is dropped.
    """

    vocabulary: Vocabulary
    names: Sequence[str]
    least: float

    @property
    def by_examples(self) -> list[str]:
        """Names of the classes that are found by examples."""
        return [name for name in self.names if name in self.vocabulary.names]

    @property
    def by_text(self) -> list[str]:
        """Names of the classes that are found by texts alone."""
        return [name for name in self.names if name not in self.vocabulary.names]

    @property
    def texts(self) -> TextClasses | None:
        """The vocabulary's classes by text; None if no class to find is one of them."""
        texts = self.vocabulary.texts
        if texts is None or not any(name in texts.names for name in self.names):
            return None
        return texts

    def to_compare(
        self, found: Sequence[InstanceMask], everything: Sequence[InstanceMask]
    ) -> list[InstanceMask]:
        """Return the masks whose crops are to be compared with texts.

        Args:
            found: masks of the classes by examples, with indices of `vocabulary.names`.
            everything: masks of everything; none if no class is found by texts alone.
        """
        return [*(mask for mask in found if self._column(mask) is not None), *everything]

    def select(
        self,
        found: Sequence[InstanceMask],
        everything: Sequence[InstanceMask],
        probabilities: Array,
    ) -> list[InstanceMask]:
        """Select masks.

        Args:
            found: as of `to_compare`.
            everything: as of `to_compare`.
            probabilities: (n, C) of the masks of `to_compare`, by `TextClasses.probabilities`.

        Returns:
            Masks with indices of `vocabulary.all_names`, best first; scores of classes with texts
            are multiplied by the probability.
        """
        rows = iter(probabilities)
        confirmed = (self._confirmed(mask, rows) for mask in found)
        selected = [mask for mask in confirmed if mask is not None]
        selected += self._chosen(everything, list(rows))
        return sorted(selected, key=lambda mask: -mask.score)

    def _confirmed(self, mask: InstanceMask, rows: Iterator[Array]) -> InstanceMask | None:
        """Take a mask of a class by examples, whose texts have to agree if it has any."""
        column = self._column(mask)
        if column is None:
            return mask
        likely = float(next(rows)[column])
        return replace(mask, score=mask.score * likely) if likely >= self.least else None

    def _chosen(
        self, everything: Sequence[InstanceMask], rows: Sequence[Array]
    ) -> Iterator[InstanceMask]:
        """Give masks of everything to the likeliest class by text."""
        columns = [self._text_names.index(name) for name in self.by_text]
        indices = [self.vocabulary.all_names.index(name) for name in self.by_text]
        for mask, row in zip(everything, rows, strict=True):
            best = int(row[columns].argmax())
            likely = float(row[columns[best]])
            if likely >= self.least:
                yield replace(mask, score=mask.score * likely, class_index=indices[best])

    def _column(self, mask: InstanceMask) -> int | None:
        """Return the index of the texts of a mask's class, which was found by examples."""
        name = self.vocabulary.names[mask.class_index]
        return self._text_names.index(name) if name in self._text_names else None

    @property
    def _text_names(self) -> tuple[str, ...]:
        return () if self.vocabulary.texts is None else self.vocabulary.texts.names


def segment_vocabulary(
    image: NDArray[np.uint8],
    vocabulary: Vocabulary,
    backend: Backend,
    config: ClassSearchConfig | None = None,
    *,
    towers: CropEncoder | None = None,
    everything: MaskGeneratorConfig | None = None,
) -> list[InstanceMask]:
    """Find all entities of a vocabulary's classes, by examples and by text.

    Args:
        image: (H, W, 3) uint8, RGB, of any size.
        vocabulary: made with this model and these towers.
        backend: SAM.
        config: thresholds; its min_similarity is the least probability by text, too. None takes
            the defaults.
        towers: CLIP; only needed for classes by text.
        everything: how the masks for classes by text are made; None takes SAM's defaults.

    Returns:
        Masks in the original image, best first, with indices of `vocabulary.all_names`.

    Raises:
        ArtifactError: classes by text without their towers.
    """
    least = (config or ClassSearchConfig()).min_similarity
    selection = ClassSelection(vocabulary, vocabulary.all_names, least)
    texts = selection.texts
    if texts is not None:
        towers = require_towers(texts, towers)
    found, masks = list[InstanceMask](), list[InstanceMask]()
    if selection.by_examples:
        found = segment_image(image, vocabulary, backend, config)
    if selection.by_text:
        masks = AutomaticMaskGenerator(backend, everything).generate(image, vocabulary.tile)
    likely = np.zeros((0, 0), np.float32)
    if texts is not None and towers is not None:
        boxes = [mask.bbox for mask in selection.to_compare(found, masks)]
        likely = texts.probabilities(embed_boxes(image, boxes, towers))
    return selection.select(found, masks, likely)


def require_towers(texts: TextClasses, towers: CropEncoder | None) -> CropEncoder:
    """Return the towers if they embedded the texts.

    Raises:
        ArtifactError: there are none, or they are others.
    """
    if towers is None or towers.info.digest != texts.towers:
        raise ArtifactError.of(
            "CLIP",
            got="no towers" if towers is None else f"towers {towers.info.digest[:12]}",
            expected=f"the towers {texts.towers[:12]}, which embedded the vocabulary's texts",
            fix="give those that the vocabulary was built with, or build it again",
        )
    return towers
