"""Graph runners: the contract's graphs in torch, ONNX Runtime or another engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from cpcsam.backends.onnx_backend import OnnxGraphs
from cpcsam.backends.protocol import GraphBackend
from cpcsam.contract import GraphSpec
from cpcsam.model.sam import CpcSam
from export.graphs.modules import GraphModule

__all__ = ["GraphRunner", "OnnxRunner", "TorchRunner", "backend_of"]


class GraphRunner(Protocol):
    """An engine that runs single graphs of a model.

    It is narrower than `cpcsam.backends.protocol.Backend`: the parity grid compares every graph
    on the reference's own tensors, which encode and decode do not show.

    Attributes:
        name: engine and precision, for reports and errors.
    """

    name: str

    def __call__(self, graph: GraphSpec, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Run a graph.

        Args:
            graph: specification from the contract.
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

    return GraphBackend(run, image_size)


class TorchRunner:
    """The torch model, the reference of every comparison."""

    name = f"torch {torch.__version__}"

    def __init__(self, model: CpcSam) -> None:
        self._model = model

    @torch.no_grad()
    def __call__(self, graph: GraphSpec, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Run a graph; see `GraphRunner`."""
        module = GraphModule(self._model, graph)
        return list(module(*(inputs[name] for name in graph.input_names)))


class OnnxRunner:
    """Exported graphs in ONNX Runtime on the CPU, each loaded on first use."""

    def __init__(self, directory: Path, precision: str, threads: int = 0) -> None:
        self.name = f"onnxruntime {onnxruntime.__version__}, {precision}"
        self._graphs = OnnxGraphs(directory, threads)

    def __call__(self, graph: GraphSpec, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Run a graph; see `GraphRunner`."""
        feeds = {name: inputs[name].numpy() for name in graph.input_names}
        return [torch.from_numpy(output) for output in self._graphs.run(graph, feeds)]
