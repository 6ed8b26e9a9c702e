"""Graph runner that pads every call to a full batch, so that each profile can be measured.

A profile has its own kernels, tuned for full batches; a few prompts of an image would only ever
select the nearest profile.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cpcsam.contract import GraphSpec
from export.accuracy.runners import GraphRunner

__all__ = ["FullBatchRunner"]


class FullBatchRunner:
    """Wrapper of a runner that calls it with a profile's largest number of images and prompts.

    Images and prompts are repeated up to that number; outputs are taken from the last copies.

    Attributes:
        name: of the wrapped runner, with images × prompts of the profile.
    """

    def __init__(self, runner: GraphRunner, images: int, prompts: int) -> None:
        """Wrap a runner.

        Args:
            runner: runs the padded calls.
            images: B of every call, at most the largest batch of the image encoder.
            prompts: P of every call; larger inputs are split over several calls.
        """
        self._runner, self._images, self._prompts = runner, images, prompts
        self.name = f"{runner.name}, {images} × {prompts}"

    def __call__(self, graph: GraphSpec, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Run a graph on at most `images` images; see `GraphRunner`."""
        tensors = {spec.name: inputs[spec.name] for spec in graph.inputs}
        # The last copies are returned, since faulty kernels tend to fail at the end of a batch.
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
    """Repeat along a dimension to `count` entries that end with the original ones in order."""
    size = tensor.shape[dim]
    return tensor.index_select(dim, torch.arange(-count, 0) % size)
