"""Graph runners: the contract's graphs in torch, ONNX Runtime or another engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import onnxruntime
import torch
from torch import Tensor

from cpcsam.contract import GraphSpec
from cpcsam.errors import ExportError
from cpcsam.model.sam import CpcSam
from export.graphs.modules import GraphModule

__all__ = ["OnnxRunner", "GraphRunner", "TorchRunner"]


class GraphRunner(Protocol):
    """An engine that runs single graphs of a model.

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
        self._directory, self._threads = directory, threads
        self._sessions: dict[str, Any] = {}

    def __call__(self, graph: GraphSpec, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Run a graph; see `GraphRunner`."""
        if graph.name not in self._sessions:
            self._sessions[graph.name] = self._open(graph)
        feeds = {name: inputs[name].numpy() for name in graph.input_names}
        try:
            outputs = self._sessions[graph.name].run(graph.output_names, feeds)
        except Exception as error:  # onnxruntime's exceptions share no base class
            shapes = ", ".join(f"{name} {array.shape}" for name, array in feeds.items())
            raise ExportError.of(
                f"{graph.name} of {shapes}",
                got=f"a failure of ONNX Runtime ({str(error).splitlines()[0]})",
                expected="outputs",
                fix="the graph has frozen a dynamic dimension; correct the exported code",
            ) from error
        return [torch.from_numpy(output) for output in outputs]

    def _open(self, graph: GraphSpec) -> Any:
        file = self._directory / f"{graph.name}.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ExportError.of(
                graph.name,
                got=f"a graph that ONNX Runtime refuses ({str(error).splitlines()[0]})",
                expected="a loadable graph",
                fix="export it again",
            ) from error
