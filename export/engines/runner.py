"""TensorRT engines as a `Runner`, in a process of their own and, if need be, in a container."""

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
from export.engines.ipc import receive, send
from export.engines.worker import GREETING

__all__ = ["EngineRunner", "plan_command"]

MODULE = "export.engines.worker"


def plan_command(plans: Path) -> list[str]:
    """Command line of the process: here if there is TensorRT, else in the Triton image.

    Raises:
        ExportError: there is neither.
    """
    if find_tensorrt() is not None:
        return [sys.executable, "-m", MODULE, str(plans.resolve())]
    return container_command(require_image(), MODULE, ["/plans"], {plans: "/plans:ro"})


class EngineRunner:
    """The plans of a folder; a context manager that ends their process.

    Attributes:
        name: as in `Runner`.
    """

    def __init__(self, command: Sequence[str], precision: str) -> None:
        """Start the process.

        Args:
            command: of `plan_command`.
            precision: of the engines, for the name.

        Raises:
            ExportError: it has no TensorRT or no GPU.
        """
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=CHECKOUT
        )
        self._questions = cast(BinaryIO, self._process.stdin)
        self._answers = cast(BinaryIO, self._process.stdout)
        try:
            while (line := self._answers.readline()) != GREETING:
                if not line:
                    raise self._ended()
            head, _ = self._answer()
        except BaseException:
            self._end()
            raise
        self.name = f"TensorRT {head['tensorrt']}, {precision}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def __call__(self, graph: GraphSpec, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """As `Runner`."""
        arrays = {name: inputs[name].numpy() for name in graph.input_names}
        try:
            send(self._questions, {"graph": graph.name}, arrays)
        except BrokenPipeError as error:
            raise self._ended() from error
        _, outputs = self._answer()
        return [torch.from_numpy(outputs[name]) for name in graph.output_names]

    def _answer(self) -> tuple[dict[str, Any], dict[str, Any]]:
        answer = receive(self._answers)
        if answer is None:
            raise self._ended()
        if "error" in answer[0]:
            raise ExportError(answer[0]["error"])
        return answer

    def _ended(self) -> CpcSamError:
        return ExportError.of(
            "the process that runs the engines",
            got=f"its end, with exit status {self._process.wait()}",
            expected="answers",
            fix="see the lines above",
        )

    def _end(self) -> None:
        """Without questions the process ends by itself, and frees the GPU."""
        with self._process:
            pass
