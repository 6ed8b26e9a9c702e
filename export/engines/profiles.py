"""TensorRT optimization profiles: min, opt and max shapes of every graph's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from cpcsam.contract import POINT_BUCKETS, PROMPT_BUCKETS, GraphSpec, TensorSpec

__all__ = ["MOST_PROMPTS", "Profile", "ShapeRange", "nearest_profile", "profiles_of"]

MOST_PROMPTS: Final = (PROMPT_BUCKETS[0], PROMPT_BUCKETS[-1])
"""Largest number of prompts of each profile: a single one, as by every click, has its kernels."""
USUAL_POINTS: Final = POINT_BUCKETS[1]
"""A box, or a click and its correction."""


@dataclass(frozen=True)
class ShapeRange:
    """Shape range of an input: min, opt (the shape its kernels are tuned for) and max."""

    smallest: tuple[int, ...]
    usual: tuple[int, ...]
    largest: tuple[int, ...]

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Return whether a shape is within the range."""
        return len(shape) == len(self.usual) and all(
            least <= size <= most
            for least, size, most in zip(self.smallest, shape, self.largest, strict=True)
        )

    def distance(self, shape: tuple[int, ...]) -> int:
        """Return the L1 distance of a shape from the opt shape."""
        return sum(abs(size - usual) for size, usual in zip(shape, self.usual, strict=True))


Profile: TypeAlias = Mapping[str, ShapeRange]
"""Shape range of every input, by name."""


def profiles_of(graph: GraphSpec, image_size: int) -> tuple[Profile, ...]:
    """Return the profiles of a graph, in Triton's numbering.

    A graph without prompts has a single profile. All go up to the graph's largest batch, and the
    opt shapes are full batches, which determine the server's throughput.
    """
    if not any("P" in tensor.dims for tensor in graph.inputs):
        return (_profile(graph, image_size, 1),)
    return tuple(_profile(graph, image_size, most) for most in MOST_PROMPTS)


def nearest_profile(
    profiles: Sequence[Profile], shapes: Mapping[str, tuple[int, ...]]
) -> int | None:
    """Choose a profile as Triton does: the nearest opt shape among the profiles that fit.

    Args:
        profiles: profiles of a graph.
        shapes: shapes of all its inputs, by name.

    Returns:
        Number of the profile; None if no profile fits.
    """
    distances = {
        number: sum(profile[name].distance(shape) for name, shape in shapes.items())
        for number, profile in enumerate(profiles)
        if all(profile[name].takes(shape) for name, shape in shapes.items())
    }
    return min(distances, key=distances.__getitem__, default=None)


def _profile(graph: GraphSpec, image_size: int, prompts: int) -> Profile:
    images = graph.max_batch
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
