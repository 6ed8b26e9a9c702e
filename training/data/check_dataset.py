"""Command: check a dataset on disk: counts, classes, splits, speed, sample images, broken files.

Examples:
  python -m training.data check kvasir-seg /data/Kvasir-SEG
  python -m training.data check trashcan /data/dataset --limit 200 --workers 8
  python -m training.data check coco /data/mine --out out/mine
  python -m training.data check coco /data/mine --crowds --json > account.json

The account says of images, pages, annotations, entities and files how many were found, read and
left out, and why. Exit status: 0 if all was read, 4 if the dataset is usable with losses, that is,
training would go on without what was left out or take what was changed in reading, and 2 if
training would stop, or the dataset cannot be read at all.

docs/guides/datasets.md lists the download and the expected layout of each dataset.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.commands import count, parser_of, run_command
from cpcsam.errors import CpcSamError, DataError
from cpcsam.images.arguments import add_read_options, read_options_of
from cpcsam.images.options import ReadOptions
from training.data.check_report import (
    PARTS,
    USABLE_WITH_LOSSES,
    Report,
    account_of_files,
    printable,
    spread_counts,
)
from training.data.datasets.account import Account
from training.data.datasets.items import Findings, Item
from training.data.datasets.protocol import Dataset, open_dataset
from training.data.datasets.registry import DATASETS
from training.data.pictures import contact_sheet
from training.data.sample import Sample

__all__ = ["Examined", "examine", "main"]

PROG = "python -m training.data"
PICTURES = 12


@dataclass(frozen=True)
class Examined:
    """Result of reading one image.

    Attributes:
        size: (H, W); None if it could not be read.
        entities: entities that can be seen, by class.
        errors: one line for each problem of its files that training stops at.
        losses: one line for each thing that is left out without one.
        replaced: one line for each unusable file in whose place another was taken.
        account: counts of what was read and left out.
    """

    size: tuple[int, int] | None
    entities: Counter[str]
    errors: tuple[str, ...]
    losses: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    account: Account = field(default_factory=Account)


def examine(item: Item, options: ReadOptions | None = None) -> Examined:
    """Read one image and collect every problem of its files."""
    findings = Findings(strict=False, options=options or ReadOptions())
    account = findings.account
    size = None
    entities: Counter[str] = Counter()
    try:
        sample = item.load(findings)
        if sample is not None:
            labels = [int(label) for label in np.unique(sample.instances) if label]
            entities.update(sample.class_of(label) for label in labels)
            size = sample.size
    except Exception as error:
        # One image must not end the work on all others.
        findings.errors.append(_unforeseen(item, error))
    if size is None:
        account.lose("images", "that cannot be used")
        account.lose(
            "annotations",
            "of images left out",
            max(item.outlines - account.found("annotations"), 0),
        )
    else:
        account.take("images")
        account.take("entities", entities.total())
        account.pass_over(
            "entities", "covered by others", max((findings.drawn or 0) - entities.total(), 0)
        )
    return Examined(
        size,
        entities,
        tuple(str(error) for error in findings.errors),
        tuple(findings.losses),
        tuple(findings.replaced),
        account,
    )


def _unforeseen(item: Item, error: Exception) -> CpcSamError:
    if isinstance(error, CpcSamError):
        return error
    return DataError.of(
        item.name,
        got=f"{type(error).__name__}: {error}",
        expected="an image and annotations that can be read",
        fix="restore or remove it",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; it returns 2 also if training would stop, and 4 if something is lost."""
    parser = parser_of(PROG, __doc__)
    commands = parser.add_subparsers(required=True, metavar="check")
    check = commands.add_parser(
        "check",
        help="read a dataset and name its broken files",
        description=parser.description,
        epilog=parser.epilog,
    )
    check.add_argument("name", metavar="NAME", help=f"one of {', '.join(DATASETS)}")
    check.add_argument("path", type=Path, metavar="PATH", help="the folder it was unpacked in")
    check.add_argument(
        "--out", type=Path, metavar="DIR", help="for the images (default: out/datasets/NAME)"
    )
    check.add_argument(
        "--limit", type=count, metavar="N", help="read N images, evenly spread (default: all)"
    )
    check.add_argument(
        "--workers", type=count, metavar="N", help="processes that read (default: all cores)"
    )
    add_read_options(check)
    check.add_argument(
        "--crowds", action="store_true", help="read COCO's annotations with iscrowd as entities"
    )
    check.add_argument("--json", action="store_true", help="print the report as JSON")
    return run_command(parser, _work, argv)


def _work(options: argparse.Namespace) -> int:
    dataset = open_dataset(options.name, options.path, options.crowds)
    out = options.out or Path("out/datasets") / options.name
    # Of this process: a container may have fewer cores than its machine.
    workers = options.workers or len(os.sched_getaffinity(0))
    report = _check(dataset, options.path, out, options.limit, workers, read_options_of(options))
    if options.json:
        sys.stdout.write(json.dumps(report.as_dict(), indent=2) + "\n")
    else:
        sys.stdout.write(report.text())
    return report.status


def _check(
    dataset: Dataset,
    root: Path,
    out: Path,
    limit: int | None,
    workers: int,
    reading: ReadOptions,
) -> Report:
    """Read the images, name the problems and draw a contact sheet."""
    items = [item for part in PARTS for item in dataset.parts[part]]
    looked = _spread(items, limit or len(items))
    started = time.monotonic()
    _tell(dataset.losses, sys.stderr.write)
    with tqdm(total=len(looked), desc=dataset.spec.title, unit="image", leave=False) as bar:
        examined = []
        for result in _examine_all(looked, workers, reading):
            _tell((*result.errors, *result.losses), lambda line: bar.write(line, sys.stderr, ""))
            examined.append(result)
            bar.update()
    rate = len(looked) / (time.monotonic() - started)
    notes = {"speed": f"{rate:.1f} images/s, workers: {workers}"}
    readable = [item for item, seen in zip(looked, examined, strict=True) if seen.size]
    if readable:
        picture = out / "contact_sheet.png"
        content = io.BytesIO()
        # Read again, one at a time, as the pool returned counts and no pixels.
        samples = (_lenient(item, reading) for item in _spread(readable, PICTURES))
        contact_sheet(samples, dataset.classes).save(content, "PNG")
        write_atomic(picture, content.getvalue())
        notes["pictures"] = str(picture)
    replaced = sorted({_one_line(line) for seen in examined for line in seen.replaced})
    if replaced:
        listing = out / "replaced.txt"
        write_atomic(listing, ("\n".join(replaced) + "\n").encode())
        notes["replaced"] = f"{len(replaced)} unusable files, {listing}"
    errors = [error for seen in examined for error in seen.errors]
    entities, images = spread_counts(seen.entities for seen in examined)
    if not entities and len(looked) == len(items):
        errors.append(
            str(
                DataError.of(
                    str(root), got="no entity", expected="annotations that can be read",
                    fix="see the account of what was left out",
                )
            )
        )  # fmt: skip
        _tell(errors[-1:], sys.stderr.write)
    account = account_of_files(dataset, root, out)
    account.add(dataset.account)
    for seen in examined:
        account.add(seen.account)
    if len(looked) < len(items):
        names = {item.name for item in looked}
        unseen = [item for item in items if item.name not in names]
        account.pass_over("images", "beyond --limit", len(unseen))
        account.pass_over("annotations", "beyond --limit", sum(item.outlines for item in unseen))
    status = 2 if errors else USABLE_WITH_LOSSES if account.has_losses else 0
    return Report(
        dataset,
        root,
        account,
        sorted({seen.size for seen in examined if seen.size}),
        entities,
        images,
        sum(seen.size is not None and not seen.entities for seen in examined),
        len(looked),
        len(errors) + len(dataset.losses) + sum(len(seen.losses) for seen in examined),
        sum(bool(seen.errors or seen.losses) for seen in examined),
        status,
        notes,
    )


def _tell(lines: Sequence[str], write: Callable[[str], object]) -> None:
    for line in lines:
        write(f"{PROG}: {_one_line(line)}\n")


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most `count` items, evenly spread."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _examine_all(items: Sequence[Item], workers: int, reading: ReadOptions) -> Iterator[Examined]:
    look = partial(examine, options=reading)
    if workers == 1:
        yield from map(look, items)
        return
    try:
        with ProcessPoolExecutor(workers) as pool:
            yield from pool.map(look, items, chunksize=4)
    except BrokenProcessPool as error:
        raise DataError.of(
            "a process that reads images",
            got="its sudden end",
            expected="it to live",
            fix="memory may have run out: lower --workers",
        ) from error


def _lenient(item: Item, reading: ReadOptions) -> Sample:
    sample = item.load(Findings(strict=False, options=reading))
    assert sample is not None, "it was read before"
    return sample


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())
