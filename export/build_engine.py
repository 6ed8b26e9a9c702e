"""Command: build TensorRT plans of exported graphs, for the GPU of this machine.

python -m export.build_engine --onnx build/onnx --out build/plans
python -m export.build_engine --onnx build/onnx --out build/plans --workspace-gb 8

A plan runs only in the TensorRT and on the GPU architecture that it was built for. Where this
Python has no TensorRT, the build runs in the Triton image of docker-compose.yml, which serves the
engines. Kernel times are kept beside the plans, so that the next build is quicker; what is
unchanged is not built again. Plans become engines that can be served by export.check_engines.
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
from cpcsam.commands import ArgumentParser, exit_code_of, positive
from cpcsam.contract import GRAPHS
from cpcsam.errors import ConfigError, ExportError
from cpcsam.gpu import Gpu, visible_gpus
from export.engines.builder import PlanOptions, plan_from_onnx
from export.engines.container import build_in_container
from export.engines.importing import find_tensorrt, require_tensorrt
from export.engines.profiles import Profile, profiles_of
from export.provenance import code_digest

__all__ = ["PRECISIONS", "build_engines", "main"]

PROG: Final = "python -m export.build_engine"
PRECISIONS: Final = ("fp32", "fp16")
WORKSPACE_GB: Final = 16.0


def build_engines(
    onnx: Path, out: Path, *, trt: ModuleType, gpu: Gpu, options: PlanOptions
) -> bool:
    """Build a plan of every graph and publish an artifact of kind `plans`.

    Args:
        onnx: artifact with the graphs.
        out: the artifact to write.
        trt: the module `tensorrt`.
        gpu: what the plans are for.
        options: how plans are built.

    Returns:
        Whether plans were built; False if those at `out` are of these graphs and settings.

    Raises:
        ArtifactError: onnx is no such artifact, or was altered.
        ExportError: TensorRT cannot build a graph, or not in this precision; nothing is published.
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
    engine = {
        "tensorrt": ".".join(trt.__version__.split(".")[:3]),
        "compute_capability": gpu.compute_capability,
        "gpu": gpu.name,
        "workspace_bytes": options.workspace_bytes,
        "profiles": {graph.name: _told(profiles_of(graph, image_size)) for graph in GRAPHS},
    }
    config = {**manifest.config, "engine": engine}
    parents = {**manifest.parents, "onnx": sha256_file(onnx / MANIFEST_NAME), "code": code_digest()}
    if is_made_from(out, "plans", parents=parents, config=config):
        return False
    seconds: dict[str, float] = {}
    metrics: dict[str, Any] = {"build_seconds": seconds}
    with publish(out, "plans", parents=parents, config=config, metrics=metrics) as staging:
        for graph in GRAPHS:
            started = time.monotonic()
            plan = plan_from_onnx(trt, onnx / f"{graph.name}.onnx", graph, image_size, options)
            (staging / f"{graph.name}.plan").write_bytes(plan)
            seconds[graph.name] = round(time.monotonic() - started, 1)
        metrics["built_at"] = datetime.now(UTC).isoformat(timespec="seconds")
    return True


def _told(profiles: Sequence[Profile]) -> list[dict[str, Any]]:
    return [{name: asdict(shapes) for name, shapes in one.items()} for one in profiles]


def _only_gpu() -> Gpu:
    """The GPU of this machine; of several, which must be of one architecture, the first."""
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
    """Run the command; 0 when done, 2 after an error, told in one line."""
    summary, _, rest = (__doc__ or "").removeprefix("Command: ").partition("\n\n")
    parser = ArgumentParser(prog=PROG, description=summary, epilog=rest)
    parser.add_argument("--onnx", type=Path, metavar="DIR", required=True, help="the graphs")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="the plans")
    parser.add_argument(
        "--workspace-gb",
        type=positive,
        default=WORKSPACE_GB,
        metavar="GIB",
        help="most scratch memory of the GPU; default: %(default)g",
    )
    parser.add_argument("--here", action="store_true", help="never build in a container")
    args = parser.parse_args(argv)
    return exit_code_of(lambda: _build(args), PROG)


if __name__ == "__main__":
    sys.exit(main())
