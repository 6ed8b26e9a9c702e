"""Graph runners: the contract's graphs in torch, ONNX Runtime or another engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from cpcsam.backends.onnx_backend import OnnxGraphs, Provider
from cpcsam.backends.protocol import GraphBackend
from cpcsam.contract import DECODER_MAX_BATCH, GraphSpec
from cpcsam.model.sam import CpcSam
from export.graphs.modules import GraphModule

__all__ = ["FullBatchRunner", "GraphRunner", "OnnxRunner", "TorchRunner", "backend_of"]


class GraphRunner(Protocol):
    """An engine that runs single graphs of a model.

    It is narrower than `cpcsam.backends.protocol.Backend`: the parity grid compares every graph
    on the reference's own tensors, which encode and decode do not show.

    Attributes:
        name: engine and precision, for reports and errors.
    """

    name: str

    @property
    def calibrates(self) -> bool:
        """Whether its graphs are those of a model that calibrates prompts."""

    def __call__(self, graph: GraphSpec, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Run a graph.

        Args:
            graph: specification from the contract, one of `graphs_of(calibrates)`.
            inputs: by name, with the contract's shapes and dtypes, on the CPU; inputs of other
                graphs are ignored.

        Returns:
            Outputs in the contract's order, on the CPU.

        Raises:
            ExportError: the engine rejects the graph or these inputs.
        """


def backend_of(runner: GraphRunner, image_size: int) -> GraphBackend:
    """Adapt a runner to the backend protocol, on numpy arrays."""

    def run(graph: GraphSpec, arrays: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        inputs = {name: torch.from_numpy(arrays[name]) for name in graph.input_names}
        return [output.numpy() for output in runner(graph, inputs)]

    return GraphBackend(run, image_size, calibrates=runner.calibrates)


class TorchRunner:
    """The torch model, the reference of every comparison."""

    name = f"torch {torch.__version__}"

    def __init__(self, model: CpcSam) -> None:
        self._model = model
        self.calibrates = model.calibrates

    @torch.no_grad()
    def __call__(self, graph: GraphSpec, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Run a graph; see `GraphRunner`."""
        module = GraphModule(self._model, graph)
        return list(module(*(inputs[name] for name in graph.input_names)))


class OnnxRunner:
    """Exported graphs in ONNX Runtime, each loaded on first use."""

    def __init__(
        self, directory: Path, precision: str, threads: int = 0, provider: Provider = "cpu"
    ) -> None:
        self.name = f"onnxruntime {onnxruntime.__version__}, {precision}"
        if provider != "cpu":
            self.name += f", {provider}"
        self._graphs = OnnxGraphs(directory, threads, provider)

    @property
    def calibrates(self) -> bool:
        """Whether the graphs are those of a model that calibrates prompts."""
        return self._graphs.calibrates

    def __call__(self, graph: GraphSpec, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Run a graph; see `GraphRunner`."""
        feeds = {name: inputs[name].numpy() for name in graph.input_names}
        return [torch.from_numpy(output) for output in self._graphs.run(graph, feeds)]


class FullBatchRunner:
    """Wrapper of a runner that calls it with the most images and prompts of a profile.

    A profile has its own kernels, tuned for full batches; a few prompts of an image would only ever
    select the nearest profile. Images are repeated up to a graph's largest batch, and prompts up to
    their number; outputs are taken from the last copies.

    Attributes:
        name: of the wrapped runner, with images × prompts of the decoder's profile.
        calibrates: of the wrapped runner.
    """

    def __init__(self, runner: GraphRunner, prompts: int) -> None:
        """Wrap a runner.

        Args:
            runner: runs the padded calls.
            prompts: P of every call; larger inputs are split over several calls.
        """
        self._runner, self._prompts = runner, prompts
        self.name = f"{runner.name}, {DECODER_MAX_BATCH} × {prompts}"
        self.calibrates = runner.calibrates

    def __call__(self, graph: GraphSpec, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Run a graph on at most its largest batch; see `GraphRunner`."""
        tensors = {spec.name: inputs[spec.name] for spec in graph.inputs}
        # The last copies are returned, since faulty kernels tend to fail at the end of a batch.
        images = next(iter(tensors.values())).shape[0]
        filled = {name: _repeated(tensor, 0, graph.max_batch) for name, tensor in tensors.items()}
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
