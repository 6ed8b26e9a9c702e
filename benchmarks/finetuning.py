r"""Compare fine-tuning by training/configs/dataset.yaml with its base, on classes it did not see.

Examples:
  python -m benchmarks.finetuning --set coco=benchmarks/photographs --minutes 10
  python -m benchmarks.finetuning --set coco=benchmarks/photographs \
    --set mricron=/usr/share/mricron --set vector-art=/usr/share/openclipart --shots 4

Trains on the base classes of each set and clicks once on every entity of the target classes of its
test images, accurately and carelessly, in windows of the run's scale around it. Runs that are done
are kept, so the command goes on where it was stopped. Minutes are of all cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.common.job_cache import code_digest, data_digest, missing, run_here, store
from benchmarks.common.output import OUT, add_report_option, publish, write_json
from cpcsam.artifacts.manifest import read_manifest
from cpcsam.commands import count, parser_of, positive, run_command
from cpcsam.config import load_config, to_dict
from cpcsam.model.base_checkpoint import base_digest
from cpcsam.scale import Scale
from reporting.run_report import RunReport, Table, machine_of
from reporting.tables import Cell, interval_of, paired_interval
from training.bilevel.config import TrainConfig
from training.bilevel.run import train
from training.data.datasets.protocol import open_dataset
from training.data.sample import Sample, entity_windows
from training.evaluate import evaluate

__all__ = ["Run", "main", "report_of"]

PROG: Final = "python -m benchmarks.finetuning"
CONFIG: Final = Path("training/configs/dataset.yaml")
MIN_AREA: Final = 64
MAX_ENTITIES: Final = 150
"""Of the target classes, evenly spread over the test images."""


@dataclass(frozen=True)
class Run:
    """One training and its scores.

    Attributes:
        config: of the training.
        path: file of the scores.
    """

    config: TrainConfig
    path: Path

    def configuration(self) -> Mapping[str, Any]:
        """Return what decides the scores, but for the time that a step takes."""
        source = self.config.data.train
        assert source.root is not None
        return {
            **{key: value for key, value in to_dict(self.config).items() if key != "data"},
            "shots": source.shots,
            "images": data_digest(source.root),
            "base": base_digest(self.config.model.base),
            "code": code_digest("benchmarks.finetuning"),
        }


def _runs(options: argparse.Namespace) -> list[Run]:
    runs = []
    for seed in range(options.seeds):
        for name, root in options.set:
            label = root.name if name in ("coco", "folders") else name
            train = [f"data.train.dataset={name}", f"data.train.root={root.absolute()}"]
            shots = [] if options.shots is None else [f"data.train.shots={options.shots}"]
            overrides = [
                f"name={label}-{options.shots or 'all'}-{seed}",
                f"out={options.out / 'runs'}",
                f"seed={seed}",
                f"data.train.seed={seed}",
                f"max_minutes={options.minutes}",
                f"model.base={options.base}",
                *train,
                *shots,
                *options.override,
            ]
            config = load_config(TrainConfig, CONFIG, overrides)
            runs.append(Run(config, options.out / f"{config.name}.json"))
    return runs


def _work(run: Run) -> str:
    result = train(replace(run.config, overwrite=True))
    best = run.config.folder / "best"
    manifest = read_manifest(best, "run").config
    scale = Scale.of_manifest(manifest) or Scale()
    scores = evaluate(best, None, _windows(run.config, scale), min_area=1)
    figures = {
        model: {kind: scores[kind][model]["dice"] for kind in ("accurate", "careless")}
        for model in ("base", "run")
    }
    store(
        run,
        {
            "set": run.config.name.rsplit("-", 2)[0],
            "seed": run.config.seed,
            "window": scale.window,
            "steps": result.step,
            "best_step": result.best.step,
            "entities": scores["entities"],
            **figures,
        },
    )
    return f"{run.config.name}: {figures}"


def _windows(config: TrainConfig, scale: Scale) -> list[Sample]:
    """Cut a window around each entity of a target class, evenly spread over the test images."""
    source = config.data.train
    assert source.dataset is not None and source.root is not None
    cuts = [
        cut
        for sample in open_dataset(source.dataset, source.root).samples("test", "target")
        for cut in entity_windows(sample, min(scale.side(sample.size), *sample.size), MIN_AREA)
    ]
    kept = min(MAX_ENTITIES, len(cuts))
    return [cuts[index * len(cuts) // kept] for index in range(kept)]


def report_of(result: Mapping[str, Any]) -> RunReport:
    """Make the report of a result: one row a set, means and differences over seeds."""
    rows = []
    for name in dict.fromkeys(row["set"] for row in result["rows"]):
        runs = [row for row in result["rows"] if row["set"] == name]
        cells: list[object] = [f"{name}, {result['shots'] or 'all'} images"]
        cells += [runs[0]["window"] or "whole", runs[0]["entities"], len(runs)]
        for kind in ("accurate", "careless"):
            base, tuned = (
                np.array([100 * row[model][kind] for row in runs]) for model in ("base", "run")
            )
            gain = interval_of(paired_interval(list(tuned - base)))
            cells += [Cell(base.mean()), Cell(tuned.mean()), gain, Cell((tuned - base).min())]
        rows.append(cells)
    heads = ["set", "window", "entities", "seeds"]
    for kind in ("accurate", "careless"):
        heads += [f"{kind}: {head}" for head in ("base", "tuned", "gain", "least gain")]
    note = (
        "Dice in % of target classes by one click each, accurate or careless, after fine-tuning on "
        f"base classes for {result['minutes']:g} minutes at most; {result['machine']}, base "
        f"`{result['base_sha256'][:12]}`. Intervals are of the paired difference over seeds."
    )
    name = "finetuning" if result["shots"] is None else f"finetuning-{result['shots']}"
    return RunReport(name, "Fine-tuning compared with its base", note, [Table("", heads, rows)])


def _set(text: str) -> tuple[str, Path]:
    name, separator, root = text.partition("=")
    if not (separator and root):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected DATASET=PATH")
    return name, Path(root)


def _main(options: argparse.Namespace) -> None:
    runs = _runs(options)
    run_here(missing(runs), _work)
    result = {
        "base_sha256": base_digest(options.base),
        "machine": machine_of(),
        "minutes": options.minutes,
        "shots": options.shots,
        "rows": [json.loads(run.path.read_text()) for run in runs],
    }
    write_json(options.out / "finetuning.json", result)
    publish(report_of(result), options.out / "finetuning.md", options, result["base_sha256"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument(
        "--set",
        type=_set,
        action="append",
        required=True,
        metavar="DATASET=PATH",
        help="a dataset of docs/guides/datasets.md and its folder; may be repeated",
    )
    parser.add_argument("--base", type=Path, default=Path("weights/vit_t"), metavar="DIR")
    parser.add_argument("--minutes", type=positive, default=10.0, metavar="M", help="a run (10)")
    parser.add_argument("--seeds", type=count, default=5, metavar="N", help="from 0 (default: 5)")
    parser.add_argument("--shots", type=count, metavar="N", help="training images (default: all)")
    parser.add_argument(
        "--override", action="append", default=[], metavar="KEY=VALUE", help="change to the recipe"
    )
    parser.add_argument(
        "--out", type=Path, default=OUT / "finetuning", metavar="DIR", help="(%(default)s)"
    )
    add_report_option(parser, argv)
    return run_command(parser, _main, argv)


if __name__ == "__main__":
    sys.exit(main())
