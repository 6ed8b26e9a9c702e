"""ONNX Runtime backend and its sessions on the CPU. onnxruntime is imported on first use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cpcsam.artifacts.manifest import read_manifest
from cpcsam.backends.protocol import GraphBackend
from cpcsam.contract import CALIBRATE, IMAGE_ENCODER, PROMPT_ENCODER, GraphSpec, calibrates_of
from cpcsam.errors import ArtifactError, ExportError

__all__ = ["OnnxBackend", "OnnxGraphs", "open_session"]


def open_session(path: Path, threads: int = 0, *, memory_arena: bool = True) -> Any:
    """Open an ONNX graph as an `onnxruntime.InferenceSession` on the CPU.

    Args:
        path: the graph's file.
        threads: for one operator; 0 leaves the choice to ONNX Runtime.
        memory_arena: keep freed memory for the next run.

    Raises:
        ArtifactError: no such file, or ONNX Runtime refuses it.
    """
    import onnxruntime

    if not path.is_file():
        raise ArtifactError.of(
            str(path), got="no such file", expected="an ONNX graph", fix="export it again"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = memory_arena
    # Idle threads that spin would take the cores from other sessions and processes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ArtifactError.of(
            str(path),
            got=f"a file that ONNX Runtime refuses ({' '.join(str(error).split())})",
            expected="an ONNX graph",
            fix="export it again",
        ) from error


class OnnxGraphs:
    """The exported graphs of a directory, each opened when it is first run."""

    def __init__(self, directory: Path, threads: int = 0) -> None:
        self._directory, self._threads = directory, threads
        self._sessions: dict[str, Any] = {}

    @property
    def image_size(self) -> int:
        """Side S of the encoder's frame in pixels, as the image encoder declares it."""
        return int(self._session(IMAGE_ENCODER).get_inputs()[0].shape[-1])

    @property
    def calibrates(self) -> bool:
        """Whether they tell the calibrated prompts, and can do without calibration."""
        inputs = self._session(PROMPT_ENCODER).get_inputs()
        return CALIBRATE.name in {node.name for node in inputs}

    def run(self, graph: GraphSpec, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run one graph.

        Args:
            graph: of the contract.
            inputs: at least the graph's own, by name, with the contract's shapes and dtypes.

        Returns:
            The outputs in the contract's order.

        Raises:
            ArtifactError: the graph cannot be opened.
            ExportError: it fails on these inputs.
        """
        session = self._session(graph)
        feeds = {name: inputs[name] for name in graph.input_names}
        try:
            return list(session.run(graph.output_names, feeds))
        except Exception as error:  # onnxruntime's exceptions share no base class
            shapes = ", ".join(f"{name} {array.shape}" for name, array in feeds.items())
            raise ExportError.of(
                f"{graph.name} of {shapes}",
                got=f"a failure of ONNX Runtime ({str(error).splitlines()[0]})",
                expected="outputs",
                fix="the graph has frozen a dynamic dimension; correct the exported code",
            ) from error

    def _session(self, graph: GraphSpec) -> Any:
        if graph.name not in self._sessions:
            # The arena would keep the encoder's peak: for ViT-B at 1024, 7.7 instead of 4.9 GB.
            self._sessions[graph.name] = open_session(
                self._directory / f"{graph.name}.onnx", self._threads, memory_arena=False
            )
        return self._sessions[graph.name]


class OnnxBackend(GraphBackend):
    """`Backend` over the graphs of an artifact of kind `onnx`, on the CPU.

    Attributes:
        image_size: side S of the encoder's frame in pixels.
        calibrates: what `calibrates_of` tells of its manifest.
    """

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        """Verify the artifact and open its image encoder.

        Args:
            path: the artifact's directory, which `export.to_onnx` wrote.
            threads: for one operator; 0 leaves the choice to ONNX Runtime.

        Raises:
            ArtifactError: missing, altered, of another kind, or no ONNX graphs.
        """
        manifest = read_manifest(Path(path), "onnx")
        graphs = OnnxGraphs(Path(path), threads)
        super().__init__(graphs.run, graphs.image_size, calibrates=calibrates_of(manifest.config))
