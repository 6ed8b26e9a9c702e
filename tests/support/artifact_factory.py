"""Small repositories of versions, and exports of a random model and of the shipped base."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpcsam.artifacts.manifest import MANIFEST_NAME, publish, read_manifest, sha256_file
from cpcsam.contract import GRAPHS
from cpcsam.model.fusion import fuse
from cpcsam.model.run_checkpoint import load_merged, save_merged
from export import merge, to_onnx
from export import repository as versions
from export.accuracy import parity_grid
from export.real_images import packaged_images
from export.to_onnx import export_graphs
from export.triton_repository.publishing import build_repository
from tests.support.model_factory import noisy_cpcsam
from tests.support.paths import ROOT


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
    [file] = version.glob("decoder/*/mask_decoder.onnx")
    return file.read_text()


def export_noisy_model(path: Path) -> Path:
    """Write the artifacts `path/merged` and `path/onnx`; return the latter.

    Compared on one real image only: random weights draw no stable mask on any.
    """
    merged, out = path / "merged", path / "onnx"
    save_merged(fuse(noisy_cpcsam()), merged, parents={})
    export_graphs(
        load_merged(merged),
        out,
        parents={"merged": sha256_file(merged / MANIFEST_NAME)},
        config=read_manifest(merged).config,
        images=packaged_images()[:1],
    )
    return out


def export_shipped_base(build: Path) -> None:
    """Run the commands of `make export` on the shipped base, compared on little.

    test_onnx_export compares at all shapes, and every export of `.ci/run` on all images too.
    """
    graphs = ["--merged", build / "merged", "--out", build / "onnx"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity_grid, "BATCHES", {256: (2,)})
        patch.setattr(parity_grid, "PROMPTS", (3,))
        patch.setattr(parity_grid, "POINTS", (2,))
        for command, words in (
            (merge, ["--base", ROOT / "weights/vit_t", "--out", build / "merged"]),
            (to_onnx, [*graphs, "--images", packaged_images()[0]]),
            (versions, ["publish", "--onnx", build / "onnx", "--out", build / "repository"]),
        ):
            assert command.main([*map(str, words)]) == 0
