"""Who runs the graphs of the contract: torch, ONNX Runtime, or any engine that fits `Runner`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import onnxruntime
import torch
from torch import Tensor

from cpcsam.backends.onnx_session import OnnxGraphs
from cpcsam.contract import GraphSpec
from cpcsam.model.sam import CpcSam
from export.graphs.modules import GraphModule

__all__ = ["OnnxRunner", "Runner", "TorchRunner"]


class Runner(Protocol):
    """An engine that holds all graphs of one model.

    Attributes:
        name: of the engine and its precision, for reports and errors.
    """

    name: str

    def __call__(self, graph: GraphSpec, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Run one graph.

        Args:
            graph: one of the contract's.
            inputs: at least the graph's own, by name, with the contract's shapes and dtypes, on
                the CPU.

        Returns:
            The outputs in the contract's order, on the CPU.

        Raises:
            ExportError: the engine refuses the graph or these inputs.
        """


class TorchRunner:
    """The model itself, which every engine is compared with."""

    name = f"torch {torch.__version__}"

    def __init__(self, model: CpcSam) -> None:
        self._model = model

    @torch.no_grad()
    def __call__(self, graph: GraphSpec, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """As `Runner`."""
        module = GraphModule(self._model, graph)
        return list(module(*(inputs[name] for name in graph.input_names)))


class OnnxRunner:
    """Exported graphs in ONNX Runtime on the CPU, each opened when it is first needed."""

    def __init__(self, directory: Path, precision: str, threads: int = 0) -> None:
        self.name = f"onnxruntime {onnxruntime.__version__}, {precision}"
        self._graphs = OnnxGraphs(directory, threads)

    def __call__(self, graph: GraphSpec, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """As `Runner`."""
        feeds = {name: inputs[name].numpy() for name in graph.input_names}
        return [torch.from_numpy(output) for output in self._graphs.run(graph, feeds)]
