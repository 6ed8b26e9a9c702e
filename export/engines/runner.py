"""Graph runner of TensorRT engines, in a process of its own or in the Triton container."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

import torch
from torch import Tensor

from cpcsam.contract import GraphSpec
from cpcsam.errors import CpcSamError, ExportError
from export.engines.container import CHECKOUT, container_command, require_image
from export.engines.importing import find_tensorrt
from export.engines.worker import GREETING, receive, send

__all__ = ["EngineRunner", "plan_command"]

MODULE = "export.engines.worker"


def plan_command(plans: Path) -> list[str]:
    """Return the worker's command line: here if TensorRT is installed, else in the Triton image.

    Raises:
        ExportError: there is neither TensorRT nor the image.
    """
    if find_tensorrt() is not None:
        return [sys.executable, "-m", MODULE, str(plans.resolve())]
    return container_command(require_image(), MODULE, ["/plans"], {plans: "/plans:ro"})


class EngineRunner:
    """Runner of the plans in a folder; a context manager that ends the worker process.

    Attributes:
        name: engine and precision, for reports and errors.
        calibrates: whether the plans are those of a model that calibrates prompts.
    """

    def __init__(self, command: Sequence[str], precision: str, *, calibrates: bool = False) -> None:
        """Start the worker process.

        Args:
            command: from `plan_command`.
            precision: of the engines, for the name.
            calibrates: whether the plans are those of a model that calibrates prompts.

        Raises:
            ExportError: the worker has no TensorRT or no GPU.
        """
        self.calibrates = calibrates
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=CHECKOUT
        )
        self._requests = cast(BinaryIO, self._process.stdin)
        self._responses = cast(BinaryIO, self._process.stdout)
        try:
            while (line := self._responses.readline()) != GREETING:
                if not line:
                    raise self._exited()
            header, _ = self._receive()
        except BaseException:
            self._close()
            raise
        self.name = f"TensorRT {header['tensorrt']}, {precision}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __call__(self, graph: GraphSpec, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Run a graph; see `GraphRunner`."""
        arrays = {name: inputs[name].numpy() for name in graph.input_names}
        try:
            header = {"graph": graph.name, "calibrates": self.calibrates}
            send(self._requests, header, arrays)
        except BrokenPipeError as error:
            raise self._exited() from error
        _, outputs = self._receive()
        return [torch.from_numpy(outputs[name]) for name in graph.output_names]

    def _receive(self) -> tuple[dict[str, Any], dict[str, Any]]:
        response = receive(self._responses)
        if response is None:
            raise self._exited()
        if "error" in response[0]:
            raise ExportError(response[0]["error"])
        return response

    def _exited(self) -> CpcSamError:
        return ExportError.of(
            "the process that runs the engines",
            got=f"its end, with exit status {self._process.wait()}",
            expected="responses",
            fix="see the lines above",
        )

    def _close(self) -> None:
        """Close the pipes, which ends the worker and frees the GPU, and wait for it."""
        with self._process:
            pass
