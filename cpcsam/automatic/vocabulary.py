"""Vocabularies: classes as prototypes of the model's embeddings, extended without training.

A prototype is a mask-pooled image embedding of annotated entities. Similarity is measured after
`metric`, which evens out how embeddings vary within a class. A place's margin for a class is how
much nearer it is to that class's prototypes than to all others, softly minimised over them; a
logistic curve, fitted on the annotated images, turns it into a probability. Plain numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.automatic.prototypes import cluster, fit_logistic, log_mean_exp, sigmoid, whitening
from cpcsam.automatic.support_set import Examples
from cpcsam.checks import require_range
from cpcsam.clip.text_classes import TextClasses
from cpcsam.contract import EMBED_DIM
from cpcsam.errors import ConfigError, ContractError

__all__ = ["BACKGROUND", "Vocabulary", "VocabularyConfig", "build_vocabulary", "empty_vocabulary"]

BACKGROUND: Final = -1
"""Owner of the prototypes that belong to no class; BACKGROUND - 1 - i owns the background that was
learnt with class i, is removed with it, and counts against no earlier class, whose curve was fitted
without it."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class VocabularyConfig:
    """Parameters of the prototypes.

    Attributes:
        prototypes: upper bound for a class.
        background: upper bound for what belongs to no class.
        shrinkage: in (0, 1]; 1 compares embeddings as they are, less takes how they vary within
            the classes into account.
        sharpness: how strongly the nearest prototype outweighs the others.
    """

    prototypes: int = 16
    background: int = 64
    shrinkage: float = 0.2
    sharpness: float = 10.0

    def __post_init__(self) -> None:
        """Raise ConfigError for values out of range."""
        require_range("prototypes", self.prototypes, 1)
        require_range("background", self.background, 1)
        require_range("shrinkage", self.shrinkage, 0, 1, above=True)
        require_range("sharpness", self.sharpness, 0, above=True)


@dataclass(frozen=True)
class Vocabulary:
    """Prototypes, metric and calibration of the classes by examples, and the classes by text.

    A class may be both; then entities that its examples find have to be like its texts, too.

    Attributes:
        model: digest of the model whose embeddings these are.
        names: of the classes by examples.
        tile: side of the tiles the images were shown in, in their own pixels; 0 for whole images.
        config: parameters of the prototypes.
        mean: (256,) subtracted from embeddings.
        metric: (256, 256), applied next; the result is scaled to length 1.
        prototypes: (K, 256) of length 1.
        owners: (K,) int32, index of the class each belongs to, or BACKGROUND and below.
        calibration: (C, 2), slope and intercept of each class's logistic curve.
        texts: the classes by text; None if there never was one.
    """

    model: str
    names: tuple[str, ...]
    tile: int
    config: VocabularyConfig
    mean: Array
    metric: Array
    prototypes: Array
    owners: NDArray[np.int32]
    calibration: Array
    texts: TextClasses | None = None

    @property
    def all_names(self) -> tuple[str, ...]:
        """Names of the classes by examples, and then of those by text alone."""
        texts = () if self.texts is None else self.texts.names
        return (*self.names, *(name for name in texts if name not in self.names))

    def similarity_maps(self, image_embeddings: Array) -> Array:
        """Return the probability that each place belongs to each class.

        Args:
            image_embeddings: (..., 256, G, G).

        Returns:
            (..., C, G, G) float32 in [0, 1]; classes are independent, so they need not sum to 1.

        Raises:
            ContractError: embeddings of another width.
        """
        if image_embeddings.ndim < 3 or image_embeddings.shape[-3] != len(self.mean):
            raise ContractError.of(
                "image_embeddings",
                got=f"shape {image_embeddings.shape}",
                expected=f"(..., {len(self.mean)}, G, G)",
                fix="give the output of the model's image_encoder",
            )
        maps = self._probabilities(np.moveaxis(image_embeddings, -3, -1))
        return np.ascontiguousarray(np.moveaxis(maps, -1, -3), np.float32)

    def extend(self, name: str, examples: Examples) -> Vocabulary:
        """Add a class from a few examples; nothing is trained.

        Cells outside the class that no known class claims become background. Without any class by
        examples so far, the metric and the background are made of these examples.

        Args:
            name: of the new class.
            examples: entities of the new class alone, all of class index 0.

        Raises:
            ConfigError: the name is taken.
            ContractError: no entity covers any cell; or no cell is background, of a first class.
        """
        if name in self.names:
            raise ConfigError.of(
                "class", got=f"{name!r}, which is known", expected="a new name", fix="rename it"
            )
        if not self.names:
            first = build_vocabulary(
                (name,), examples, model=self.model, tile=self.tile, config=self.config
            )
            return replace(first, texts=self.texts)
        pooled = _require_entities(examples.pooled(0), name)
        cells, coverage = examples.cells(), examples.coverage(0)
        likely = self._probabilities(cells)
        rest = cells[(coverage == 0) & ~(likely > 0.5).any(-1)]
        added = [cluster(self._project(pooled), self.config.prototypes)]
        if len(rest):
            added.append(cluster(self._project(rest), self.config.prototypes))
        index = len(self.names)
        owners = [index] * len(added[0]) + [_background_of(index)] * sum(map(len, added[1:]))
        extended = replace(
            self,
            names=(*self.names, name),
            prototypes=np.concatenate([self.prototypes, *added]),
            owners=np.concatenate([self.owners, np.array(owners, np.int32)]),
            calibration=np.concatenate([self.calibration, np.zeros((1, 2), np.float32)]),
        )
        curve = fit_logistic(extended._margins(cells)[:, -1], coverage)
        calibration = np.vstack([self.calibration, [curve]]).astype(np.float32)
        return replace(extended, calibration=calibration)

    def without(self, name: str) -> Vocabulary:
        """Remove a class, its texts, and the background that was learnt with it.

        Args:
            name: of the class.

        Raises:
            ConfigError: there is no such class.
        """
        if name not in self.all_names:
            raise ConfigError.of(
                "class",
                got=f"{name!r}, which is not known",
                expected=f"one of {', '.join(self.all_names)}",
                fix="correct the name",
            )
        texts = None if self.texts is None else self.texts.without(name)
        if name not in self.names:
            return replace(self, texts=texts)
        gone = self.names.index(name)
        kept = (self.owners != gone) & (self.owners != _background_of(gone))
        owners = self.owners[kept]
        later = owners > gone  # these indices close the gap that the class leaves
        with_later = owners < _background_of(gone)  # as do those of later backgrounds
        return replace(
            self,
            names=tuple(known for known in self.names if known != name),
            prototypes=self.prototypes[kept],
            owners=np.asarray(owners - later + with_later, np.int32),
            calibration=np.delete(self.calibration, gone, axis=0),
            texts=texts,
        )

    def _project(self, embeddings: Array) -> Array:
        """Project (..., 256) to unit vectors whose dot product is the similarity."""
        projected = (embeddings - self.mean) @ self.metric
        length = np.linalg.norm(projected, axis=-1, keepdims=True)
        return np.asarray(projected / np.maximum(length, 1e-6), np.float32)

    def _probabilities(self, embeddings: Array) -> Array:
        """Return (..., C) of (..., 256)."""
        margins = self._margins(embeddings)
        return np.asarray(sigmoid(margins * self.calibration[:, 0] + self.calibration[:, 1]))

    def _margins(self, embeddings: Array) -> Array:
        """Return (..., C) of (..., 256): similarity to a class minus similarity to all else."""
        similarity = self._project(embeddings) @ self.prototypes.T * self.config.sharpness
        margins = np.zeros((*embeddings.shape[:-1], len(self.names)), np.float32)
        for index in range(len(self.names)):
            own = self.owners == index
            others = ~own & (self.owners >= _background_of(index))
            margins[..., index] = log_mean_exp(similarity[..., own])
            margins[..., index] -= log_mean_exp(similarity[..., others])
        return margins


def build_vocabulary(
    names: Sequence[str],
    examples: Examples,
    *,
    model: str,
    tile: int = 0,
    config: VocabularyConfig | None = None,
) -> Vocabulary:
    """Make the prototypes of classes from an annotated support set.

    Args:
        names: of the classes; `examples.classes` are their indices.
        examples: the support set.
        model: digest of the model that embedded it.
        tile: side of the tiles the images were shown in; 0 for whole images.
        config: parameters; None takes the defaults.

    Raises:
        ContractError: a class without an entity, or no cell of background.
    """
    config = config or VocabularyConfig()
    cells = examples.cells()
    coverages = [examples.coverage(index) for index in range(len(names))]
    groups = [cells[coverage > 0.5] for coverage in coverages]  # mixed cells would blur the metric
    empty = cells[np.sum(coverages, axis=0) == 0]
    if not len(empty):
        raise ContractError.of(
            "support set", got="no background", expected="some", fix="give images that show some"
        )
    mean = cells.mean(0)
    vocabulary = Vocabulary(
        model=model,
        names=tuple(names),
        tile=tile,
        config=config,
        mean=mean,
        metric=whitening([*groups, empty], config.shrinkage),
        prototypes=np.zeros((0, len(mean)), np.float32),
        owners=np.zeros(0, np.int32),
        calibration=np.tile(np.array([1, 0], np.float32), (len(names), 1)),
    )
    clusters = [
        cluster(
            vocabulary._project(_require_entities(examples.pooled(index), name)), config.prototypes
        )
        for index, name in enumerate(names)
    ]
    clusters.append(cluster(vocabulary._project(empty), config.background))
    owners = np.repeat([*range(len(names)), BACKGROUND], [len(group) for group in clusters])
    vocabulary = replace(
        vocabulary, prototypes=np.concatenate(clusters), owners=owners.astype(np.int32)
    )
    margins = vocabulary._margins(cells)
    curves = [fit_logistic(margins[:, i], coverage) for i, coverage in enumerate(coverages)]
    return replace(vocabulary, calibration=np.array(curves, np.float32))


def empty_vocabulary(model: str) -> Vocabulary:
    """Make a vocabulary without classes, to which classes by text can be added."""
    none = np.zeros((0, EMBED_DIM), np.float32)
    return Vocabulary(
        model=model,
        names=(),
        tile=0,
        config=VocabularyConfig(),
        mean=np.zeros(EMBED_DIM, np.float32),
        metric=np.eye(EMBED_DIM, dtype=np.float32),
        prototypes=none,
        owners=np.zeros(0, np.int32),
        calibration=np.zeros((0, 2), np.float32),
    )


def _background_of(index: int) -> int:
    """Return the owner of the background that was learnt with a class."""
    return BACKGROUND - 1 - index


def _require_entities(pooled: Array, name: str) -> Array:
    if not len(pooled):
        raise ContractError.of(
            f"class {name}", got="no entity", expected="at least one", fix="give more examples"
        )
    return pooled
