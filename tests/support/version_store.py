"""A small repository of versions, for tests of what writes and reads versions."""

from __future__ import annotations

from pathlib import Path

from cpcsam.artifacts.manifest import publish
from cpcsam.contract import GRAPHS
from export.triton_repository.publishing import build_repository


def write_graphs(path: Path, content: str) -> Path:
    """Write an artifact of kind `onnx` whose graphs are a text."""
    with publish(path, "onnx", config={"model_size": "vit_t", "image_size": 256}) as staging:
        for graph in GRAPHS:
            (staging / f"{graph.name}.onnx").write_text(content)
    return path


def write_two_versions(folder: Path) -> Path:
    """Publish two versions in `folder/store`, the second current; return the store."""
    for number in (1, 2):
        onnx = write_graphs(folder / f"onnx{number}", f"graph {number}")
        build_repository(onnx, folder / "store")
    return folder / "store"


def read_graph(version: Path) -> str:
    """Return the text of a version's mask decoder."""
    [file] = version.glob("mask_decoder/*/model.onnx")
    return file.read_text()
