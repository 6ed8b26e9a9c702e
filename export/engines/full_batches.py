"""A runner that fills every call, so that an engine is judged on each of its profiles.

A profile has kernels of its own, chosen for full batches. A few prompts of one image would only
ever meet the profile that is nearest to them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cpcsam.contract import GraphSpec
from export.accuracy.runners import Runner

__all__ = ["FullBatches"]


class FullBatches:
    """Another runner, called with as many images and prompts as a profile takes at most.

    Images and prompts are repeated to that number; the last copies answer.

    Attributes:
        name: as in `Runner`, with the profile.
    """

    def __init__(self, runner: Runner, images: int, prompts: int) -> None:
        """Wrap a runner.

        Args:
            runner: whom to ask.
            images: of every call; of the image encoder at most what its batches take.
            prompts: an image of every call; more are split over several.
        """
        self._runner, self._images, self._prompts = runner, images, prompts
        self.name = f"{runner.name}, {images} × {prompts}"

    def __call__(self, graph: GraphSpec, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """As `Runner`, of no more images than every call has."""
        tensors = {spec.name: inputs[spec.name] for spec in graph.inputs}
        images = next(iter(tensors.values())).shape[0]
        filled = {name: _repeated(tensor, 0, self._images) for name, tensor in tensors.items()}
        prompted = {spec.name for spec in graph.inputs if "P" in spec.dims}
        if not prompted:
            return [output[-images:] for output in self._runner(graph, filled)]
        prompts = filled[next(iter(prompted))].shape[1]
        parts = []
        for first in range(0, prompts, self._prompts):
            chosen = range(first, min(first + self._prompts, prompts))
            part = {
                name: _repeated(tensor[:, chosen], 1, self._prompts) if name in prompted else tensor
                for name, tensor in filled.items()
            }
            outputs = self._runner(graph, part)
            parts.append([output[-images:, -len(chosen) :] for output in outputs])
        return [torch.cat(pieces, dim=1) for pieces in zip(*parts, strict=True)]


def _repeated(tensor: Tensor, dim: int, count: int) -> Tensor:
    """Repeat along a dimension up to a number of entries, the last ones in their order."""
    size = tensor.shape[dim]
    return tensor.index_select(dim, torch.arange(-count, 0) % size)
