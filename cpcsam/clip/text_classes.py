"""Classes named by texts: CLIP's embeddings of their phrases, compared with those of image crops.

A crop's logit for a class is the logit scale times its largest cosine similarity to the class's
texts. The class's probability is a softmax over all classes and the class's own negatives, texts of
what it must not be taken for. Plain numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.errors import ConfigError, ContractError

__all__ = ["NEGATIVES", "TEMPLATES", "TextClass", "TextClasses", "phrases_of", "pool_phrases"]

TEMPLATES: Final = (
    "{}",
    "a photo of a {}.",
    "a close-up photo of a {}.",
    "a cropped image of a {}.",
)
"""Phrases for each text, whose embeddings are averaged (CLIP's prompt ensembling)."""
NEGATIVES: Final = ("background", "something else")
"""Negatives of a class that has none of its own."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class TextClass:
    """A class named by texts.

    Attributes:
        name: of the class.
        texts: synonyms, at least one.
        negatives: of the class; none takes `NEGATIVES`.
    """

    name: str
    texts: tuple[str, ...]
    negatives: tuple[str, ...] = ()

    @property
    def all_texts(self) -> tuple[str, ...]:
        """The texts to embed: the synonyms and then the negatives."""
        return (*self.texts, *(self.negatives or NEGATIVES))


@dataclass(frozen=True)
class TextClasses:
    """Classes named by texts, with the embeddings of their texts.

    Attributes:
        towers: digest of the CLIP that embedded the texts.
        logit_scale: factor of similarities, CLIP's own or fitted.
        classes: in the order in which they were added.
        embeddings: (K, d) float32 of unit length.
        owners: (K,) int32: i for the texts of class i, -1 - i for its negatives.
    """

    towers: str
    logit_scale: float
    classes: tuple[TextClass, ...]
    embeddings: Array
    owners: NDArray[np.int32]

    @classmethod
    def empty(cls, towers: str, logit_scale: float, embed_dim: int) -> TextClasses:
        """Make a collection without classes."""
        none = np.zeros((0, embed_dim), np.float32)
        return cls(towers, logit_scale, (), none, np.zeros(0, np.int32))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(known.name for known in self.classes)

    def add(self, new: TextClass, embeddings: Array) -> TextClasses:
        """Add a class.

        Args:
            new: the class.
            embeddings: (n, d) of `new.all_texts`, by `pool_phrases`.

        Raises:
            ConfigError: the name is taken.
            ContractError: embeddings of another shape.
        """
        if new.name in self.names:
            raise ConfigError.of(
                "class", got=f"{new.name!r}, which is known", expected="a new name", fix="rename it"
            )
        expected = len(new.all_texts), self.embeddings.shape[1]
        if embeddings.shape != expected:
            raise ContractError.of(
                f"embeddings of {new.name}",
                got=f"shape {embeddings.shape}",
                expected=str(expected),
                fix="embed its texts with the towers of the other classes",
            )
        index = len(self.classes)
        owners = np.full(len(embeddings), -1 - index, np.int32)
        owners[: len(new.texts)] = index
        return replace(
            self,
            classes=(*self.classes, new),
            embeddings=np.concatenate([self.embeddings, embeddings]).astype(np.float32),
            owners=np.concatenate([self.owners, owners]),
        )

    def without(self, name: str) -> TextClasses:
        """Remove a class; nothing happens if there is none of that name."""
        if name not in self.names:
            return self
        gone = self.names.index(name)
        kept = (self.owners != gone) & (self.owners != -1 - gone)
        owners = self.owners[kept]
        return replace(
            self,
            classes=tuple(known for known in self.classes if known.name != name),
            embeddings=self.embeddings[kept],
            owners=np.asarray(owners - (owners > gone) + (owners < -1 - gone), np.int32),
        )

    def probabilities(self, crops: Array) -> Array:
        """Return the probability of each class for each crop; the classes' own need not sum to 1.

        Args:
            crops: (n, d) embeddings of unit length.

        Returns:
            (n, C) float32 in [0, 1].
        """
        if not self.classes or not len(crops):
            return np.zeros((len(crops), len(self.classes)), np.float32)
        similarity = self.logit_scale * (crops @ self.embeddings.T).astype(np.float64)
        largest = similarity.max(1, keepdims=True)
        own = self._largest(similarity - largest)
        # Each class competes with all classes, and with its own negatives alone.
        total = np.exp(own).sum(1, keepdims=True)
        weights = np.exp(similarity - largest)
        against = np.stack(
            [weights[:, self.owners == -1 - i].sum(1) for i in range(len(self.classes))], 1
        )
        return np.asarray(np.exp(own) / (total + against), np.float32)

    def _largest(self, similarity: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the largest of each class's texts, (n, K) to (n, C)."""
        return np.stack(
            [similarity[:, self.owners == i].max(1) for i in range(len(self.classes))], 1
        )


def phrases_of(texts: Sequence[str], templates: Sequence[str] = TEMPLATES) -> list[str]:
    """Put texts into all templates: those of the first text, and so on."""
    return [template.format(text) for text in texts for template in templates]


def pool_phrases(embeddings: Array, templates: Sequence[str] = TEMPLATES) -> Array:
    """Average the embeddings of `phrases_of` over the templates.

    Args:
        embeddings: (n * templates, d) of unit length.
        templates: that the phrases were made of.

    Returns:
        (n, d) float32 of unit length.
    """
    pooled = embeddings.reshape(-1, len(templates), embeddings.shape[-1]).mean(1)
    return np.asarray(pooled / np.linalg.norm(pooled, axis=-1, keepdims=True), np.float32)
