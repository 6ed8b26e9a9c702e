"""Plans for the stand-in of TensorRT's runtime, and the command of the process that runs them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from cpcsam.artifacts.manifest import MANIFEST_NAME, publish, read_manifest, sha256_file
from cpcsam.contract import GRAPHS, MASK_DECODER
from export.engines.profiles import profiles_of
from tests.support.stand_in_gpu import tensorrt

STAND_IN = Path(__file__).parent


def make_plans(
    merged: Path, out: Path, shift: Mapping[int, float] | None = None, made_of: str = ""
) -> Path:
    """Publish an artifact of kind `plans`; `shift`, by profile, moves the decoder's logits."""
    parents = {"merged": made_of or sha256_file(merged / MANIFEST_NAME), "onnx": "0" * 64}
    engine = {"tensorrt": "10.0.0", "compute_capability": "8.9"}
    config = {**read_manifest(merged).config, "precision": "fp16", "engine": engine}
    metrics = {"build_seconds": {}}
    with publish(out, "plans", parents=parents, config=config, metrics=metrics) as staging:
        for graph in GRAPHS:
            profiles = [
                {name: [r.smallest, r.usual, r.largest] for name, r in profile.items()}
                for profile in profiles_of(graph, 256)
            ]
            file = merged.parent / f"onnx/{graph.name}.onnx"
            content = tensorrt.plan(
                file, profiles, dict(shift or {}) if graph is MASK_DECODER else {}
            )
            (staging / f"{graph.name}.plan").write_bytes(content)
    return out


def command(plans: Path) -> list[str]:
    return [sys.executable, "-m", "export.engines.worker", str(plans)]
