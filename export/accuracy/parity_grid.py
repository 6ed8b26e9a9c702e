"""Compare an engine with torch on random tensors, over a grid of batches, prompts and points."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from tqdm import tqdm

from cpcsam.contract import GRAPHS, IMAGE_ENCODER, GraphSpec
from cpcsam.errors import ExportError
from export.accuracy.runners import Runner
from export.graphs.modules import draw_images, draw_prompts, relative_difference

__all__ = ["Row", "compare_on_grid", "worst_by_output"]

BATCHES: Final = {256: (1, 2, 5), 512: (1, 2, 5), 1024: (1, 2)}
"""B of the grid by image_size; five images of 1024 pixels would need about 30 GB."""
PROMPTS: Final = (1, 3, 16)
POINTS: Final = (1, 2, 7)


@dataclass(frozen=True)
class Row:
    """One output at one shape; prompts and points are 0 for the image encoder."""

    graph: str
    output: str
    batch: int
    prompts: int
    points: int
    relative_difference: float


def worst_by_output(rows: Sequence[Row]) -> dict[str, float]:
    """Return the largest relative difference of every output, keyed by `graph/output`."""
    worst: dict[str, float] = {}
    for row in rows:
        name = f"{row.graph}/{row.output}"
        worst[name] = max(worst.get(name, 0.0), row.relative_difference)
    return worst


def compare_on_grid(
    reference: Runner,
    found: Runner,
    image_size: int,
    tolerance: float,
    *,
    batches: Sequence[int] = (),
    prompts: Sequence[int] = (),
    points: Sequence[int] = (),
    encoder_only: bool = False,
    seed: int = 0,
) -> list[Row]:
    """Compare the graphs one by one; each is fed with the reference's own tensors.

    Args:
        reference: what is right.
        found: what is tested.
        image_size: side S of both.
        tolerance: of every output, relative to its largest value.
        batches: B of the grid; none takes those of `BATCHES`.
        prompts: P of the grid; none takes `PROMPTS`.
        points: N of the grid; none takes `POINTS`.
        encoder_only: leave the other graphs out.
        seed: of the random images and prompts.

    Raises:
        ExportError: an output's shape, dtype or values are not those of the reference; names
            graph, output and shape.
    """
    generator = torch.Generator().manual_seed(seed)
    batches = batches or BATCHES[image_size]
    inner = itertools.product(prompts or PROMPTS, points or POINTS)
    shapes = () if encoder_only else tuple(inner)
    rows: list[Row] = []
    with tqdm(
        total=len(batches) * (1 + (len(GRAPHS) - 1) * len(shapes)),
        desc=f"grid, {found.name}",
        unit="graph",
    ) as progress:

        def check(
            graph: GraphSpec, tensors: dict[str, Tensor], shape: tuple[int, int, int]
        ) -> None:
            expected = reference(graph, tensors)
            outputs = found(graph, tensors)
            rows.extend(_compare(graph, shape, outputs, expected, found.name, tolerance))
            tensors.update(zip(graph.output_names, expected, strict=True))
            progress.update()

        for batch in batches:
            tensors = draw_images(image_size, batch, generator)
            check(IMAGE_ENCODER, tensors, (batch, 0, 0))
            for shape in shapes:
                tensors |= draw_prompts(image_size, batch, *shape, generator)
                for graph in GRAPHS:
                    if graph is not IMAGE_ENCODER:
                        check(graph, tensors, (batch, *shape))
    return rows


def _compare(
    graph: GraphSpec,
    shape: tuple[int, int, int],
    outputs: Sequence[Tensor],
    expected: Sequence[Tensor],
    engine: str,
    tolerance: float,
) -> Iterator[Row]:
    where = "B={} P={} N={}".format(*shape)
    for name, found, wanted in zip(graph.output_names, outputs, expected, strict=True):
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise ExportError.of(
                f"{graph.name}, {name} at {where}",
                got=f"{found.dtype} {tuple(found.shape)} by {engine}",
                expected=f"{wanted.dtype} {tuple(wanted.shape)}",
                fix="the graph has frozen a dynamic dimension; correct the exported code",
            )
        difference = relative_difference(found, wanted)
        if not difference <= tolerance:
            raise ExportError.of(
                f"{graph.name}, {name} {tuple(wanted.shape)} at {where}",
                got=f"a relative difference of {difference:.2e} by {engine}",
                expected=f"at most {tolerance:.0e}",
                fix="the exported graph computes something else; correct the exported code",
            )
        yield Row(graph.name, name, *shape, difference)
