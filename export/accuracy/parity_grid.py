"""Parity grid: an engine against torch on random tensors, over batches, prompts and points.

Polygraphy's Comparator is not used: it runs all inputs through an engine at a time, not a graph on
the reference's outputs of the graph before, and its tolerances hold per element.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from tqdm import tqdm

from cpcsam.contract import IMAGE_ENCODER, GraphSpec, graphs_of
from cpcsam.errors import ExportError
from export.accuracy.runners import GraphRunner
from export.graphs.modules import draw_images, draw_prompts, relative_difference

__all__ = ["Row", "compare_on_grid", "fill_with_noise", "worst_by_output"]

BATCHES: Final = {256: (1, 2, 3), 512: (1, 2, 3), 1024: (1, 2)}
"""B of the grid by image_size; an image of 1024 pixels needs about 6 GB."""
PROMPTS: Final = (1, 3, 8)
POINTS: Final = (1, 2, 7)


@dataclass(frozen=True)
class Row:
    """Difference of an output at one shape; prompts and points are 0 for the image encoder."""

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
    reference: GraphRunner,
    engine: GraphRunner,
    image_size: int,
    tolerance: float,
    *,
    batches: Sequence[int] = (),
    prompts: Sequence[int] = (),
    points: Sequence[int] = (),
    encoder_only: bool = False,
    seed: int = 0,
) -> list[Row]:
    """Compare the graphs in the contract's order, each on the reference's own tensors.

    Args:
        reference: runner with the expected outputs.
        engine: runner under test.
        image_size: side S of both models.
        tolerance: largest accepted difference, relative to an output's largest absolute value.
        batches: B of the grid; empty uses `BATCHES`.
        prompts: P of the grid; empty uses `PROMPTS`.
        points: N of the grid; empty uses `POINTS`.
        encoder_only: skip the other graphs.
        seed: of the random images and prompts.

    Returns:
        A row for every output at every shape.

    Raises:
        ExportError: an output's shape, dtype or values differ from the reference; names graph,
            output and shape.
    """
    generator = torch.Generator().manual_seed(seed)
    batches = batches or BATCHES[image_size]
    inner = itertools.product(prompts or PROMPTS, points or POINTS)
    shapes = () if encoder_only else tuple(inner)
    graphs = graphs_of(reference.calibrates)
    rows: list[Row] = []
    with tqdm(
        total=len(batches) * (1 + (len(graphs) - 1) * len(shapes)),
        desc=f"grid, {engine.name}",
        unit="graph",
    ) as progress:

        def check(
            graph: GraphSpec, tensors: dict[str, Tensor], shape: tuple[int, int, int]
        ) -> None:
            expected = reference(graph, tensors)
            outputs = engine(graph, tensors)
            rows.extend(_compare(graph, shape, outputs, expected, engine.name, tolerance))
            # The reference's outputs feed the next graph, so that differences do not accumulate.
            tensors.update(zip(graph.output_names, expected, strict=True))
            progress.update()

        for batch in batches:
            tensors = draw_images(image_size, batch, generator)
            check(IMAGE_ENCODER, tensors, (batch, 0, 0))
            for shape in shapes:
                tensors |= draw_prompts(image_size, batch, *shape, generator)
                for graph in graphs:
                    if graph is not IMAGE_ENCODER:
                        check(graph, tensors, (batch, *shape))
    return rows


def _compare(
    graph: GraphSpec,
    shape: tuple[int, int, int],
    outputs: Sequence[Tensor],
    references: Sequence[Tensor],
    engine: str,
    tolerance: float,
) -> Iterator[Row]:
    sizes = "B={} P={} N={}".format(*shape)
    for name, actual, expected in zip(graph.output_names, outputs, references, strict=True):
        if actual.shape != expected.shape or actual.dtype != expected.dtype:
            raise ExportError.of(
                f"{graph.name}, {name} at {sizes}",
                got=f"{actual.dtype} {tuple(actual.shape)} by {engine}",
                expected=f"{expected.dtype} {tuple(expected.shape)}",
                fix="the graph has frozen a dynamic dimension; correct the exported code",
            )
        difference = relative_difference(actual, expected)
        # Negated, so that NaN fails.
        if not difference <= tolerance:
            raise ExportError.of(
                f"{graph.name}, {name} {tuple(expected.shape)} at {sizes}",
                got=f"a relative difference of {difference:.2e} by {engine}",
                expected=f"at most {tolerance:.0e}",
                fix="the exported graph computes something else; correct the exported code",
            )
        yield Row(graph.name, name, *shape, difference)


@torch.no_grad()
def fill_with_noise(module: nn.Module, seed: int, scale: float = 0.02) -> None:
    """Replace zero-initialised parameters by Gaussian noise, so that no comparison is vacuous.

    Args:
        module: changed in place; SAM's positions and CaPL's last layers are zero-initialised.
        seed: of the noise.
        scale: standard deviation of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if not parameter.any():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
