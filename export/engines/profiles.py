"""TensorRT's optimization profiles of every graph: the shapes that an engine is built for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from cpcsam.contract import (
    DECODER_MAX_BATCH,
    ENCODER_MAX_BATCH,
    MAX_IMAGES_TIMES_PROMPTS,
    POINT_BUCKETS,
    PROMPT_BUCKETS,
    GraphSpec,
    TensorSpec,
)

__all__ = ["IMAGES_AND_PROMPTS", "Profile", "ShapeRange", "nearest_profile", "profiles_of"]

IMAGES_AND_PROMPTS: Final = (
    (ENCODER_MAX_BATCH, PROMPT_BUCKETS[0]),
    (DECODER_MAX_BATCH, PROMPT_BUCKETS[-1]),
    (1, MAX_IMAGES_TIMES_PROMPTS),
)
"""Most images and prompts of each profile: few of the one go with many of the other, so that the
memory of an engine, which grows with their product, stays bounded."""
USUAL_POINTS: Final = POINT_BUCKETS[1]
"""A box, or a click and its correction."""


@dataclass(frozen=True)
class ShapeRange:
    """Shapes of one input: any between the smallest and the largest, fastest at the usual."""

    smallest: tuple[int, ...]
    usual: tuple[int, ...]
    largest: tuple[int, ...]

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether a shape is within the range."""
        return len(shape) == len(self.usual) and all(
            least <= size <= most
            for least, size, most in zip(self.smallest, shape, self.largest, strict=True)
        )

    def distance(self, shape: tuple[int, ...]) -> int:
        """Of a shape from the usual one: the sum over all dimensions."""
        return sum(abs(size - usual) for size, usual in zip(shape, self.usual, strict=True))


Profile: TypeAlias = Mapping[str, ShapeRange]
"""The range of every input, by its name."""


def profiles_of(graph: GraphSpec, image_size: int) -> tuple[Profile, ...]:
    """Profiles of a graph, in the order in which Triton numbers them.

    A graph that takes no prompts has one, up to its largest batch. Engines are tuned for full
    batches, as they are what the server's capacity hangs on.
    """
    if not any("P" in tensor.dims for tensor in graph.inputs):
        return (_profile(graph, image_size, graph.max_batch, 1),)
    return tuple(_profile(graph, image_size, *most) for most in IMAGES_AND_PROMPTS)


def nearest_profile(
    profiles: Sequence[Profile], shapes: Mapping[str, tuple[int, ...]]
) -> int | None:
    """Choose a profile as Triton does: of those that take the shapes, that of the nearest usual.

    Args:
        profiles: of a graph.
        shapes: of all its inputs, by name.

    Returns:
        Its number; None where no profile takes the shapes.
    """
    distances = {
        number: sum(profile[name].distance(shape) for name, shape in shapes.items())
        for number, profile in enumerate(profiles)
        if all(profile[name].takes(shape) for name, shape in shapes.items())
    }
    return min(distances, key=distances.__getitem__, default=None)


def _profile(graph: GraphSpec, image_size: int, images: int, prompts: int) -> Profile:
    return {
        tensor.name: ShapeRange(
            smallest=_shape(tensor, image_size, 1, 1, POINT_BUCKETS[0]),
            usual=_shape(tensor, image_size, images, prompts, USUAL_POINTS),
            largest=_shape(tensor, image_size, images, prompts, POINT_BUCKETS[-1]),
        )
        for tensor in graph.inputs
    }


def _shape(
    tensor: TensorSpec, image_size: int, images: int, prompts: int, points: int
) -> tuple[int, ...]:
    dynamic = {"B": images, "P": prompts, "N": points, "N+1": points + 1}
    fixed = tensor.shape(image_size)
    return tuple(dynamic.get(str(dim), size) for dim, size in zip(tensor.dims, fixed, strict=True))
