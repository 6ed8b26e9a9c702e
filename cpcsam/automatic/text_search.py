"""Search for classes by text: masks of everything, compared with texts by their crops.

The gateway takes the same steps with Triton's embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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
    "CropEncoder",
    "choose_masks",
    "confirm_masks",
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


def choose_masks(
    masks: Sequence[InstanceMask],
    probabilities: Array,
    vocabulary: Vocabulary,
    names: Sequence[str],
    least: float,
) -> list[InstanceMask]:
    """Choose the masks of classes by text among masks of everything.

    Args:
        masks: of everything in an image.
        probabilities: (n, C) of each class by text, by `TextClasses.probabilities`.
        vocabulary: with the classes.
        names: of the classes by text to choose for.
        least: probability below which a mask is dropped.

    Returns:
        The masks with the index of their likeliest class in `vocabulary.all_names`, their scores
        multiplied by its probability.
    """
    known = () if vocabulary.texts is None else vocabulary.texts.names
    wanted = [known.index(name) for name in names]
    indices = [vocabulary.all_names.index(name) for name in names]
    chosen = []
    for mask, row in zip(masks, probabilities[:, wanted], strict=True):
        best = int(row.argmax())
        if row[best] >= least:
            score = mask.score * float(row[best])
            chosen.append(replace(mask, score=score, class_index=indices[best]))
    return chosen


def confirm_masks(
    masks: Sequence[InstanceMask],
    probabilities: Array,
    vocabulary: Vocabulary,
    least: float,
) -> list[InstanceMask]:
    """Drop masks found by examples that are unlike the texts of their class, if it has any.

    Args:
        masks: of classes by examples.
        probabilities: (n, C) of each class by text.
        vocabulary: with the classes.
        least: probability below which a mask is dropped.

    Returns:
        The other masks; the scores of classes with texts are multiplied by the probability.
    """
    known = () if vocabulary.texts is None else vocabulary.texts.names
    kept = []
    for mask, row in zip(masks, probabilities, strict=True):
        name = vocabulary.names[mask.class_index]
        likely = float(row[known.index(name)]) if name in known else 1.0
        if name not in known or likely >= least:
            kept.append(replace(mask, score=mask.score * likely))
    return kept


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
    masks = segment_image(image, vocabulary, backend, config) if vocabulary.names else []
    texts = vocabulary.texts
    if texts is None or not texts.classes:
        return masks
    towers = require_towers(texts, towers)
    least = (config or ClassSearchConfig()).min_similarity

    def likely(judged: Sequence[InstanceMask]) -> Array:
        return texts.probabilities(embed_boxes(image, [mask.bbox for mask in judged], towers))

    if any(name in texts.names for name in vocabulary.names):
        masks = confirm_masks(masks, likely(masks), vocabulary, least)
    names = [name for name in texts.names if name not in vocabulary.names]
    if names:
        found = AutomaticMaskGenerator(backend, everything).generate(image, vocabulary.tile)
        masks += choose_masks(found, likely(found), vocabulary, names, least)
    return sorted(masks, key=lambda mask: -mask.score)


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
