"""Command: judge TensorRT plans on real images, and publish those within tolerance as engines.

python -m export.check_engines --plans build/plans --merged build/merged --out build/engines
python -m export.check_engines --plans build/plans --merged build/merged --out DIR --images IMAGE...

The masks of every profile, filled to its largest batch, are compared with those of torch in
float32, by the measures and tolerances of the export. Beyond them nothing is published, and
DIR-rejected.html shows the worst masks. Where this Python has no TensorRT, the plans run in the
Triton image, which serves them.
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
from cpcsam.commands import ArgumentParser, exit_code_of
from cpcsam.contract import GRAPHS
from cpcsam.model.run_checkpoint import load_merged
from export.accuracy.mask_fidelity import Fidelity, find_cases, measure
from export.accuracy.runners import Runner, TorchRunner
from export.compare import Comparison, judge, require_made_from
from export.engines.full_batches import FullBatches
from export.engines.profiles import IMAGES_AND_PROMPTS
from export.engines.runner import EngineRunner, plan_command
from export.provenance import code_digest
from export.real_images import Scene, packaged_images, read_scenes

__all__ = ["check_engines", "main", "measure_profiles"]

PROG: Final = "python -m export.check_engines"


def measure_profiles(
    reference: Runner, engines: Runner, scenes: Sequence[Scene]
) -> tuple[Fidelity, ...]:
    """Compare engines with a reference on real images, once for each profile, filled."""
    cases = find_cases(reference, scenes)
    return tuple(measure(cases, FullBatches(engines, *most)) for most in IMAGES_AND_PROMPTS)


def check_engines(
    plans: Path,
    merged: Path,
    out: Path,
    *,
    images: Sequence[Path] = (),
    command: Sequence[str] = (),
) -> bool:
    """Publish plans as an artifact of kind `engine` if their masks are near enough to torch's.

    Args:
        plans: artifact of kind `plans`.
        merged: the model that they were made of.
        out: the artifact to write: the plans, comparison.json and comparison.html.
        images: real images to compare on; none takes the packaged ones.
        command: starts the process that runs the plans; none takes `plan_command`'s.

    Returns:
        Whether they were judged; False if the engines at `out` are these plans, judged so before.

    Raises:
        ArtifactError: an input is missing, altered, or the plans are of another model.
        DataError: an image cannot be read.
        ExportError: there is nothing to run them with, they fail, or are too far from torch;
            nothing is published. If masks are too far, `OUT-rejected.html` shows them.
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
    scenes = read_scenes(images or packaged_images(), model.image_size)
    with EngineRunner(command or plan_command(plans), precision) as engines:
        fidelity = measure_profiles(TorchRunner(model), engines, scenes)
    comparison = Comparison(precision, {}, fidelity)
    metrics: dict[str, Any] = {**manifest.metrics, **comparison.figures()}
    with publish(
        out, "engine", parents=parents, config=manifest.config, metrics=metrics
    ) as staging:
        judge(comparison, [precision] * len(fidelity), model.image_size, staging, out)
        for graph in GRAPHS:
            shutil.copyfile(plans / f"{graph.name}.plan", staging / f"{graph.name}.plan")
    return True


def _run(args: argparse.Namespace) -> None:
    if not check_engines(args.plans, args.merged, args.out, images=args.images):
        print(f"{args.out}: unchanged")
        return
    print(f"{args.out}: engines within tolerance of torch")
    for engine, summary in read_manifest(args.out, verify=False).metrics["masks"].items():
        print(
            f"{engine}: mask IoU mean {summary['iou_mean']:.4f}, minimum "
            f"{summary['iou_min']:.4f} over {summary['masks']} masks"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the engines are good, 2 after an error, told in one line."""
    summary, _, rest = (__doc__ or "").removeprefix("Command: ").partition("\n\n")
    parser = ArgumentParser(prog=PROG, description=summary, epilog=rest)
    parser.add_argument("--plans", type=Path, metavar="DIR", required=True)
    parser.add_argument("--merged", type=Path, metavar="DIR", required=True)
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="the engines")
    parser.add_argument("--images", type=Path, metavar="FILE", nargs="+", default=())
    args = parser.parse_args(argv)
    return exit_code_of(lambda: _run(args), PROG)


if __name__ == "__main__":
    sys.exit(main())
