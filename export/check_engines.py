"""Command: compare TensorRT plans with torch on real images, and publish accurate ones as engines.

python -m export.check_engines --plans build/plans --merged build/merged --out build/engines
python -m export.check_engines --plans build/plans --merged build/merged --out DIR --images IMAGE...

The masks of every profile, at its largest batch, are compared with those of torch in float32, by
the measures and tolerances of the export. If a tolerance is exceeded, nothing is published, and
DIR-rejected.html shows the worst masks. If this Python has no TensorRT, the plans run in the Triton
image, which serves them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cpcsam.artifacts.manifest import (
    MANIFEST_NAME,
    is_made_from,
    publish,
    read_manifest,
    sha256_file,
)
from cpcsam.commands import parser_of, run_command
from cpcsam.contract import calibrates_of, graphs_of
from cpcsam.images.options import Intensity
from cpcsam.model.run_checkpoint import load_merged
from export.accuracy.comparison import Comparison, mask_iou_lines, write_accepted
from export.accuracy.mask_fidelity import Fidelity, find_cases, measure
from export.accuracy.runners import FullBatchRunner, GraphRunner, TorchRunner
from export.engines.profiles import MOST_PROMPTS
from export.engines.runner import EngineRunner, plan_command
from export.provenance import code_digest, require_made_from
from export.real_images import Scene, packaged_images, read_scenes

__all__ = ["check_engines", "main", "measure_profiles"]

PROG: Final = "python -m export.check_engines"


def measure_profiles(
    reference: GraphRunner, engines: GraphRunner, scenes: Sequence[Scene]
) -> tuple[Fidelity, ...]:
    """Measure mask fidelity of engines on real images, for each profile at its largest batch."""
    cases = find_cases(reference, scenes)
    return tuple(measure(cases, FullBatchRunner(engines, most)) for most in MOST_PROMPTS)


def check_engines(
    plans: Path,
    merged: Path,
    out: Path,
    *,
    images: Sequence[Path] = (),
    command: Sequence[str] = (),
) -> bool:
    """Publish plans as an artifact of kind `engine` if their masks are within tolerance of torch's.

    Args:
        plans: artifact of kind `plans`.
        merged: the merged model that the plans were made from.
        out: the artifact to write: the plans, comparison.json and comparison.html.
        images: real images for the comparison; empty uses the packaged ones.
        command: command line of the worker process; empty uses `plan_command`.

    Returns:
        True if the plans were compared; False if `out` holds the same plans, already compared.

    Raises:
        ArtifactError: an input is missing or altered, or the plans are of another model.
        DataError: an image cannot be read.
        ExportError: there is nothing to run the plans with, they fail, or their masks are too far
            from torch's; nothing is published. In the last case `OUT-rejected.html` shows them.
    """
    manifest = read_manifest(plans, "plans")
    require_made_from(plans, manifest, merged)
    parents = {
        **manifest.parents,
        **{f"image_{index}": sha256_file(file) for index, file in enumerate(images)},
        "plans": sha256_file(plans / MANIFEST_NAME),
        "code": code_digest(),
    }
    if is_made_from(out, "engine", parents=parents):
        return False
    precision = str(manifest.config["precision"])
    model = load_merged(merged)
    intensity = Intensity.of_manifest(manifest.config)
    scenes = read_scenes(images or packaged_images(), model.image_size, intensity)
    calibrates = bool(calibrates_of(manifest.config))
    with EngineRunner(command or plan_command(plans), precision, calibrates=calibrates) as engines:
        fidelity = measure_profiles(TorchRunner(model), engines, scenes)
    comparison = Comparison(precision, {}, fidelity)
    metrics: dict[str, Any] = {**manifest.metrics, **comparison.figures()}
    # Plans are copied only after the comparison has passed.
    with publish(
        out, "engine", parents=parents, config=manifest.config, metrics=metrics
    ) as staging:
        write_accepted(comparison, [precision] * len(fidelity), model.image_size, staging, out)
        for graph in graphs_of(calibrates):
            shutil.copyfile(plans / f"{graph.name}.plan", staging / f"{graph.name}.plan")
    return True


def _run(args: argparse.Namespace) -> None:
    if not check_engines(args.plans, args.merged, args.out, images=args.images):
        print(f"{args.out}: unchanged")
        return
    print(f"{args.out}: engines within tolerance of torch")
    for line in mask_iou_lines(read_manifest(args.out, verify=False).metrics["masks"]):
        print(line)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code, 0 if the engines are within tolerance."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("--plans", type=Path, metavar="DIR", required=True)
    parser.add_argument("--merged", type=Path, metavar="DIR", required=True)
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="the engines")
    parser.add_argument("--images", type=Path, metavar="FILE", nargs="+", default=())
    return run_command(parser, _run, argv)


if __name__ == "__main__":
    sys.exit(main())
