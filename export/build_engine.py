"""Command: build TensorRT plans of exported graphs, for the GPU of this machine.

python -m export.build_engine --onnx build/onnx --out build/plans
python -m export.build_engine --onnx build/onnx --out build/plans --workspace-gb 8

A plan runs only with the TensorRT version and GPU architecture it was built for. If this Python has
no TensorRT, the build runs in the Triton image of docker-compose.yml, which serves the engines.
Measured kernel times are kept next to the plans to speed up the next build; unchanged plans are not
rebuilt. export.check_engines turns plans into engines that can be served.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from cpcsam.artifacts.manifest import (
    MANIFEST_NAME,
    is_made_from,
    publish,
    read_manifest,
    sha256_file,
)
from cpcsam.commands import parser_of, positive, run_command
from cpcsam.contract import calibrates_of, graphs_of
from cpcsam.errors import ConfigError, ExportError
from cpcsam.gpu import Gpu, visible_gpus
from export.engines.builder import PRECISIONS, PlanOptions, plan_from_onnx
from export.engines.container import build_in_container
from export.engines.importing import find_tensorrt, require_tensorrt
from export.engines.profiles import Profile, profiles_of
from export.provenance import code_digest

__all__ = ["build_engines", "main"]

PROG: Final = "python -m export.build_engine"
WORKSPACE_GB: Final = 16.0


def build_engines(
    onnx: Path, out: Path, *, trt: ModuleType, gpu: Gpu, options: PlanOptions
) -> bool:
    """Build a plan of every graph and publish an artifact of kind `plans`.

    Args:
        onnx: artifact of kind `onnx`.
        out: the artifact to write.
        trt: the module `tensorrt`.
        gpu: target GPU of the plans.
        options: builder options.

    Returns:
        True if plans were built; False if those at `out` have the same graphs and settings.

    Raises:
        ArtifactError: onnx is not such an artifact, or was altered.
        ExportError: TensorRT cannot build a graph or its precision; nothing is published.
    """
    manifest = read_manifest(onnx, "onnx")
    precision, image_size = manifest.config.get("precision"), int(manifest.config["image_size"])
    if precision not in PRECISIONS:
        raise ExportError.of(
            str(onnx),
            got=f"graphs in {precision}",
            expected=f"{' or '.join(PRECISIONS)} for TensorRT",
            fix="export them in such a precision",
        )
    graphs = graphs_of(bool(calibrates_of(manifest.config)))
    engine = {
        "tensorrt": ".".join(trt.__version__.split(".")[:3]),
        "compute_capability": gpu.compute_capability,
        "gpu": gpu.name,
        "workspace_bytes": options.workspace_bytes,
        "profiles": {graph.name: _as_json(profiles_of(graph, image_size)) for graph in graphs},
    }
    config = {**manifest.config, "engine": engine}
    parents = {**manifest.parents, "onnx": sha256_file(onnx / MANIFEST_NAME), "code": code_digest()}
    if is_made_from(out, "plans", parents=parents, config=config):
        return False
    seconds: dict[str, float] = {}
    metrics: dict[str, Any] = {"build_seconds": seconds}
    with publish(out, "plans", parents=parents, config=config, metrics=metrics) as staging:
        for graph in graphs:
            started = time.monotonic()
            plan = plan_from_onnx(trt, onnx / f"{graph.name}.onnx", graph, image_size, options)
            (staging / f"{graph.name}.plan").write_bytes(plan)
            seconds[graph.name] = round(time.monotonic() - started, 1)
        metrics["built_at"] = datetime.now(UTC).isoformat(timespec="seconds")
    return True


def _as_json(profiles: Sequence[Profile]) -> list[dict[str, Any]]:
    return [{name: asdict(shapes) for name, shapes in ranges.items()} for ranges in profiles]


def _only_gpu() -> Gpu:
    """Return the first GPU of this machine; all must have the same architecture."""
    gpus = visible_gpus()
    if len({gpu.compute_capability for gpu in gpus}) != 1:
        raise ConfigError.of(
            "this machine",
            got=", ".join(f"{gpu.name} ({gpu.compute_capability})" for gpu in gpus) or "no GPU",
            expected="NVIDIA GPUs of one architecture, for which to build",
            fix="show one to the build with: docker run --gpus",
        )
    return gpus[0]


def _build(args: argparse.Namespace) -> None:
    trt = require_tensorrt() if args.here else find_tensorrt()
    if trt is None:
        read_manifest(args.onnx, "onnx")
        build_in_container(args.onnx, args.out, ["--workspace-gb", str(args.workspace_gb)])
        return
    options = PlanOptions(
        workspace_bytes=int(args.workspace_gb * 2**30),
        timing_cache=args.out.with_name(f"{args.out.name}.timing-cache"),
    )
    built = build_engines(args.onnx, args.out, trt=trt, gpu=_only_gpu(), options=options)
    print(f"{args.out}: {'built' if built else 'unchanged'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("--onnx", type=Path, metavar="DIR", required=True, help="the graphs")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="the plans")
    parser.add_argument(
        "--workspace-gb",
        type=positive,
        default=WORKSPACE_GB,
        metavar="GIB",
        help="largest GPU scratch memory of a kernel; default: %(default)g",
    )
    parser.add_argument("--here", action="store_true", help="never build in a container")
    return run_command(parser, _build, argv)


if __name__ == "__main__":
    sys.exit(main())
