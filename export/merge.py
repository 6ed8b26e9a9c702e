"""Command: merge a training run into one checkpoint, LoRA merged and CaPL fused.

python -m export.merge --run runs/NAME/best --out build/merged
python -m export.merge --base weights/vit_t --out build/merged

The second form takes a base as it is, without a run. With both, --base says where the run's base
is now.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from cpcsam.artifacts.manifest import MANIFEST_NAME, is_made_from, read_manifest, sha256_file
from cpcsam.errors import ConfigError, CpcSamError, ExportError
from cpcsam.model.base_checkpoint import base_digest, load_base
from cpcsam.model.fusion import FusedCpcSam, fuse
from cpcsam.model.run_checkpoint import load_run, save_merged
from cpcsam.model.sam import CpcSam
from export.graphs.modules import draw_images, draw_prompts, relative_difference, run_graphs
from export.provenance import code_digest

__all__ = ["TOLERANCE", "main", "measure_difference", "merge"]

TOLERANCE: Final = 1e-4
"""Of every output before and after, relative to its largest value; rounding makes about 1e-6."""


def merge(
    run: Path | None, base: Path | None, out: Path, image_size: int | None = None
) -> dict[str, float]:
    """Merge, compare and publish an artifact of kind `merged`; keep one of this run at `out`.

    Args:
        run: an artifact of kind `run`, None to merge the bare base.
        base: the base; with `run`, where it is now (None: where it was).
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
        model = load_run(run, base)
    elif base is not None:
        model = load_base(base, image_size=image_size)
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
        # By this digest vocabularies know the model; every later artifact hands it on.
        config={"trained_model": parents.get("run", parents["base"])},
        metrics={"relative_difference": differences},
    )
    return differences


def measure_difference(before: CpcSam, after: FusedCpcSam, seed: int = 0) -> dict[str, float]:
    """Compare both models on random prompts of an oblong image, through all graphs.

    Returns:
        The relative difference of every output, keyed by `graph/output`.

    Raises:
        ExportError: an output differs by more than `TOLERANCE`, or is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    size = before.image_size
    tensors = draw_images(size, 1, generator) | draw_prompts(size, 1, 5, 4, generator)
    tensors["input_size"] = torch.tensor([[size, size * 3 // 5]], dtype=torch.int32)
    expected, found = run_graphs(before, tensors), run_graphs(after, tensors)
    differences = {name: relative_difference(found[name], expected[name]) for name in expected}
    for name, difference in differences.items():
        if not difference <= TOLERANCE:
            raise ExportError.of(
                f"merge, {name}",
                got=f"a relative difference of {difference:.2e} between before and after",
                expected=f"at most {TOLERANCE:.0e}",
                fix="the weights are numerically unsound; train again with a lower learning rate",
            )
    return differences


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when done, 2 after an error, told in one line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.merge",
        description="Merge a training run into one checkpoint, LoRA merged and CaPL fused.",
        epilog=(__doc__ or "").split("\n", 2)[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, metavar="DIR", help="a training run's best or last")
    parser.add_argument("--base", type=Path, metavar="PATH", help="a base, or where it is now")
    parser.add_argument("--image-size", type=int, help="interpolate a bare base to this size")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True)
    args = parser.parse_args(argv)
    try:
        differences = merge(args.run, args.base, args.out, args.image_size)
    except (CpcSamError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: largest relative difference {max(differences.values()):.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
