"""ONNX Runtime backend of an exported model; it needs no torch."""

from __future__ import annotations

from pathlib import Path

from cpcsam.artifacts.manifest import read_manifest
from cpcsam.backends.graph_backend import GraphBackend
from cpcsam.backends.onnx_session import OnnxGraphs

__all__ = ["OnnxBackend"]


class OnnxBackend(GraphBackend):
    """`Backend` over the graphs of an artifact of kind `onnx`, on the CPU.

    Attributes:
        image_size: side S of the encoder's frame in pixels.
    """

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        """Verify the artifact and open its image encoder.

        Args:
            path: the artifact's directory, which `export.to_onnx` wrote.
            threads: for one operator; 0 leaves the choice to ONNX Runtime.

        Raises:
            ArtifactError: missing, altered, of another kind, or no ONNX graphs.
        """
        read_manifest(Path(path), "onnx")
        graphs = OnnxGraphs(Path(path), threads)
        super().__init__(graphs.run, graphs.image_size)
