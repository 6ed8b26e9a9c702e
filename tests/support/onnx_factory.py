"""A vit_t with random weights, fused and exported, for tests."""

from __future__ import annotations

from pathlib import Path

from cpcsam.artifacts.manifest import MANIFEST_NAME, read_manifest, sha256_file
from cpcsam.model.fusion import fuse
from cpcsam.model.run_checkpoint import load_merged, save_merged
from export.to_onnx import export_graphs
from tests.support.model_factory import noisy_cpcsam


def export_noisy_model(path: Path, seed: int = 0) -> Path:
    """Write the artifacts `path/merged` and `path/onnx`; return the latter."""
    merged, out = path / "merged", path / "onnx"
    save_merged(fuse(noisy_cpcsam(seed=seed)), merged, parents={})
    export_graphs(
        load_merged(merged),
        out,
        parents={"merged": sha256_file(merged / MANIFEST_NAME)},
        config=read_manifest(merged).config,
    )
    return out
