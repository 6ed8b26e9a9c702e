"""Command: merge a training run into one checkpoint, LoRA merged and CaPL fused.

python -m export.merge --run runs/NAME/best --out build/merged
python -m export.merge --base weights/vit_t --out build/merged

The second form takes a bare base, without a run. With both, --base is the present path of the run's
base.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

from cpcsam.artifacts.manifest import MANIFEST_NAME, is_made_from, read_manifest, sha256_file
from cpcsam.commands import parser_of, run_command
from cpcsam.errors import ConfigError, ExportError
from cpcsam.images.options import INTENSITY, Intensity
from cpcsam.model.base_checkpoint import base_digest, load_base
from cpcsam.model.fusion import FusedCpcSam, fuse
from cpcsam.model.run_checkpoint import load_run, save_merged
from cpcsam.model.sam import CpcSam
from cpcsam.scale import SCALE, Scale
from export.graphs.modules import draw_images, draw_prompts, relative_difference, run_graphs
from export.provenance import code_digest

__all__ = ["TOLERANCE", "main", "measure_difference", "merge"]

PROG: Final = "python -m export.merge"
TOLERANCE: Final = 1e-4
"""Largest accepted difference of every output, relative to its largest value; rounding gives about
1e-6."""


def merge(
    run: Path | None, base: Path | None, out: Path, image_size: int | None = None
) -> dict[str, float]:
    """Merge LoRA and fuse CaPL, compare before and after, and publish an artifact of kind `merged`.

    An artifact at `out` made from the same run by the same code is kept. The scale that the run or
    the bare base declares is the merged model's.

    Args:
        run: an artifact of kind `run`; None merges the bare base.
        base: the base; with `run`, its present path, None if it has not moved.
        out: the artifact to write.
        image_size: side S to interpolate a bare base to; None keeps its own.

    Returns:
        The relative difference of every output, keyed by `graph/output`.

    Raises:
        ConfigError: neither run nor base, or an image size for a run.
        ArtifactError: an input is missing, altered or incompatible.
        ExportError: an output differs by more than `TOLERANCE`; nothing is published.
    """
    if run is not None:
        if image_size is not None:
            raise ConfigError.of(
                "--image-size", got=image_size, expected="none with --run", fix="leave it out"
            )
        parents = {
            "run": sha256_file(run / MANIFEST_NAME),
            "base": read_manifest(run, "run", verify=False).parents["base"],
            "code": code_digest(),
        }
        if is_made_from(out, "merged", parents=parents):
            return dict(read_manifest(out, verify=False).metrics["relative_difference"])
        model, source = load_run(run, base), run
    elif base is not None:
        model, source = load_base(base, image_size=image_size), base
        parents = {"base": base_digest(base), "code": code_digest()}
    else:
        raise ConfigError.of(
            "--run", got="neither --run nor --base", expected="one of them", fix="give a run"
        )
    merged = fuse(model)
    differences = measure_difference(model, merged)
    save_merged(
        merged,
        out,
        parents=parents,
        # Vocabularies identify the model by this digest; every later artifact passes it on.
        config={
            "trained_model": parents.get("run", parents["base"]),
            INTENSITY: Intensity.of_artifact(source).record(),
            **_scale_of(source),
        },
        metrics={"relative_difference": differences},
    )
    return differences


def _scale_of(source: Path) -> dict[str, Any]:
    """Return the entry of a manifest for the scale that a run or a base declares, if it does."""
    if not source.is_dir():  # official checkpoints are single files
        return {}
    scale = Scale.of_manifest(read_manifest(source, verify=False).config)
    return {} if scale is None else {SCALE: scale.record()}


def measure_difference(before: CpcSam, after: FusedCpcSam, seed: int = 0) -> dict[str, float]:
    """Compare both models on random prompts of an oblong image, through all graphs.

    Args:
        before: the model before merging and fusing.
        after: the merged, fused model.
        seed: of the random image and prompts.

    Returns:
        The relative difference of every output, keyed by `graph/output`.

    Raises:
        ExportError: an output differs by more than `TOLERANCE`, or is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    size = before.image_size
    tensors = draw_images(size, 1, generator) | draw_prompts(size, 1, 5, 4, generator)
    # An oblong image exercises the padding as well.
    tensors["input_size"] = torch.tensor([[size, size * 3 // 5]], dtype=torch.int32)
    expected, actual = run_graphs(before, tensors), run_graphs(after, tensors)
    differences = {name: relative_difference(actual[name], expected[name]) for name in expected}
    for name, difference in differences.items():
        # Negated, so that NaN fails.
        if not difference <= TOLERANCE:
            raise ExportError.of(
                f"merge, {name}",
                got=f"a relative difference of {difference:.2e} between before and after",
                expected=f"at most {TOLERANCE:.0e}",
                fix="the weights are numerically unsound; train again with a lower learning rate",
            )
    return differences


def _run(args: argparse.Namespace) -> None:
    differences = merge(args.run, args.base, args.out, args.image_size)
    print(f"{args.out}: largest relative difference {max(differences.values()):.1e}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("--run", type=Path, metavar="DIR", help="a training run's best or last")
    parser.add_argument("--base", type=Path, metavar="PATH", help="a base, or its present path")
    parser.add_argument("--image-size", type=int, help="interpolate a bare base to this size")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True)
    return run_command(parser, _run, argv)


if __name__ == "__main__":
    sys.exit(main())
