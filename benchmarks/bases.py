r"""Compare bases by one click on every entity of images that none was trained on.

Examples:
  python -m benchmarks.bases --base weights/vit_t --vector-art /usr/share/openclipart
  python -m benchmarks.bases --base weights/vit_t --base runs/pretrain_objects/base \
    --vector-art /usr/share/openclipart --bbbc038 /data/bbbc038v1 --coco /data/my-photographs

Sets: `nuclei` is BBBC038v1's val.txt in windows of 128 pixels; `objects` and `parts` are scenes of
drawings of target classes, from the test part of the drawings; `--coco` adds whole images of a
folder in COCO form. Clicks are accurate (on the pixel nearest the centroid) or careless (half of
them anywhere on the entity, half outside, at most 5 pixels off).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

from benchmarks.common.output import OUT, add_report_option, publish, write_json
from cpcsam.commands import ArgumentParser, parser_of, run_command
from cpcsam.model.base_checkpoint import base_digest, load_base
from reporting.run_report import RunReport, Table, machine_of
from training.data.datasets.class_split import split_classes
from training.data.datasets.instance_folders import read_bbbc038
from training.data.datasets.protocol import Part, open_dataset
from training.data.sample import Sample, windows
from training.data.vector_art.drawings import open_collection
from training.data.vector_art.scenes import SceneConfig, compose
from training.evaluation.one_click import CLICKS, one_click, scores_by_click

__all__ = ["main", "report_of"]

PROG: Final = "python -m benchmarks.bases"
SCENES: Final = 60
NUCLEI_WINDOW: Final = 128
MIN_AREA: Final = 64
"""Pixels; smaller entities of drawings and photographs get no click."""


def _sets(options: argparse.Namespace) -> dict[str, tuple[list[Sample], int]]:
    """Samples of each set, and the area of its smallest entity that is clicked."""
    sets = {}
    if options.bbbc038 is not None:
        images = read_bbbc038(options.bbbc038, options.bbbc038 / "val.txt")
        cuts = [cut for image in images for cut in windows(image, NUCLEI_WINDOW)]
        sets["nuclei"] = (cuts[:: options.every], 30)
    if options.vector_art is not None:
        collection = open_collection(options.vector_art)
        drawings = collection.of("test", split_classes(collection.categories)[1])
        for name, parts in (("objects", False), ("parts", True)):
            scenes = [
                compose(drawings, (7, parts, seed), SceneConfig(parts=parts), f"{name}-{seed}")
                for seed in range(0, SCENES, options.every)
            ]
            sets[name] = ([scene.sample for scene in scenes], MIN_AREA)
    for root in options.coco:
        dataset = open_dataset("coco", root)
        samples = [s for part in get_args(Part) for s in dataset.samples(part, "all")]
        sets[root.name] = (samples[:: options.every], MIN_AREA)
    return sets


def _measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    sets = _sets(options)
    for base in options.base:
        model = load_base(base)
        for name, (samples, min_area) in sets.items():
            sys.stderr.write(f"{base}: {len(samples)} images of {name}\n")
            scores = scores_by_click(
                list(one_click(model, samples, min_area, tuple(CLICKS.values())))
            )
            rows.append(
                {
                    "set": name,
                    "base": str(base),
                    "sha256": base_digest(base),
                    "entities": scores["accurate"].entities,
                    **{kind: scores[kind].dice for kind in CLICKS},
                }
            )
    return rows


def report_of(result: Mapping[str, Any]) -> RunReport:
    """Make the report of a result: one row a set, two columns a base."""
    rows = result["rows"]
    digests = list(dict.fromkeys(row["sha256"] for row in rows))
    names = list(dict.fromkeys(row["set"] for row in rows))
    by_key = {(row["set"], row["sha256"]): row for row in rows}
    table = [
        [
            name,
            by_key[name, digests[0]]["entities"],
            *(
                f"{by_key[name, digest][kind]:.3f}"
                for digest in digests
                for kind in ("accurate", "careless")
            ),
        ]
        for name in names
    ]
    heads = [f"`{digest[:12]}` {kind}" for digest in digests for kind in CLICKS]
    note = (
        "Mean Dice of mask 0 over entities, by one click each, accurate or careless; "
        f"{result['machine']}. Columns name the bases by their digests."
    )
    return RunReport(
        "bases",
        "Bases compared by one click",
        note,
        [Table("", ["set", "entities", *heads], table)],
    )


def _parser(argv: Sequence[str] | None) -> ArgumentParser:
    parser = parser_of(PROG, __doc__)
    parser.add_argument(
        "--base", type=Path, action="append", required=True, metavar="DIR", help="may be repeated"
    )
    parser.add_argument("--bbbc038", type=Path, metavar="DIR", help="folder of BBBC038v1")
    parser.add_argument("--vector-art", type=Path, metavar="DIR", help="folder of openclipart-svg")
    parser.add_argument(
        "--coco",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder of images with annotations in COCO form; may be repeated",
    )
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="every N-th image alone (default: all)"
    )
    parser.add_argument(
        "--out", type=Path, default=OUT / "bases", metavar="DIR", help="(%(default)s)"
    )
    add_report_option(parser, argv)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = _parser(argv)

    def work(options: argparse.Namespace) -> None:
        if options.bbbc038 is None and options.vector_art is None and not options.coco:
            parser.error("got no images, expected --bbbc038, --vector-art or --coco")
        result = {"machine": machine_of(), "rows": _measure(options)}
        write_json(options.out / "bases.json", result)
        publish(report_of(result), options.out / "bases.md", options)

    return run_command(parser, work, argv)


if __name__ == "__main__":
    sys.exit(main())
