"""Command: check a dataset on disk: counts, classes, splits, speed, sample images, broken files.

Examples:
  python -m training.data check kvasir-seg /data/Kvasir-SEG
  python -m training.data check trashcan /data/dataset --limit 200 --workers 8
  python -m training.data check coco /data/mine --out out/mine

docs/guides/datasets.md lists the download and the expected layout of each dataset.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.commands import count, parser_of, run_command
from cpcsam.errors import DataError
from cpcsam.images.arguments import add_read_options, read_options_of
from cpcsam.images.options import ReadOptions
from training.data.datasets.items import Findings, Item
from training.data.datasets.pictures import contact_sheet
from training.data.datasets.protocol import Dataset, Part, open_dataset
from training.data.datasets.registry import DATASETS
from training.data.sample import Sample

__all__ = ["Examined", "examine", "main"]

PROG = "python -m training.data"
PICTURES = 12
PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Examined:
    """Result of reading one image.

    Attributes:
        size: (H, W); None if it could not be read.
        entities: entities that can be seen, by class.
        errors: one line for each problem of its files.
        replaced: one line for each unusable file in whose place another was taken.
    """

    size: tuple[int, int] | None
    entities: Counter[str]
    errors: tuple[str, ...]
    replaced: tuple[str, ...] = ()


def examine(item: Item, options: ReadOptions | None = None) -> Examined:
    """Read one image and collect every problem of its files."""
    findings = Findings(strict=False, options=options or ReadOptions())
    sample = item.load(findings)
    errors = tuple(str(error) for error in findings.errors)
    if sample is None:
        return Examined(None, Counter(), errors)
    labels = [int(label) for label in np.unique(sample.instances) if label]
    size = (sample.instances.shape[0], sample.instances.shape[1])
    entities = Counter(sample.class_of(label) for label in labels)
    return Examined(size, entities, errors, tuple(findings.replaced))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; it returns 2 also if a file of the dataset is broken."""
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
    return run_command(parser, _work, argv)


def _work(options: argparse.Namespace) -> int:
    dataset = open_dataset(options.name, options.path)
    out = options.out or Path("out/datasets") / options.name
    # Of this process: a container may have fewer cores than its machine.
    workers = options.workers or len(os.sched_getaffinity(0))
    reading = read_options_of(options)
    return 2 if _check(dataset, options.path, out, options.limit, workers, reading) else 0


def _check(
    dataset: Dataset,
    root: Path,
    out: Path,
    limit: int | None,
    workers: int,
    reading: ReadOptions,
) -> Sequence[str]:
    """Read the images, print the report, draw a contact sheet; return the errors."""
    items = [item for part in PARTS for item in dataset.parts[part]]
    looked = _spread(items, limit or len(items))
    started = time.monotonic()
    with tqdm(total=len(looked), desc=dataset.spec.title, unit="image", leave=False) as bar:
        examined = []
        for result in _examine_all(looked, workers, reading):
            for error in result.errors:
                bar.write(f"{PROG}: {_one_line(error)}", file=sys.stderr)
            examined.append(result)
            bar.update()
    rate = len(looked) / (time.monotonic() - started)
    lines = _report(dataset, root, examined)
    lines.append(f"speed      {rate:.1f} images/s, workers: {workers}")
    readable = [item for item, seen in zip(looked, examined, strict=True) if seen.size]
    if readable:
        picture = out / "contact_sheet.png"
        content = io.BytesIO()
        # Read again, one at a time, as the pool returned counts and no pixels.
        samples = (_lenient(item, reading) for item in _spread(readable, PICTURES))
        contact_sheet(samples, dataset.classes).save(content, "PNG")
        write_atomic(picture, content.getvalue())
        lines.append(f"pictures   {picture}")
    replaced = sorted({_one_line(line) for seen in examined for line in seen.replaced})
    if replaced:
        listing = out / "replaced.txt"
        write_atomic(listing, ("\n".join(replaced) + "\n").encode())
        lines.append(f"replaced   {len(replaced)} unusable files, {listing}")
    errors = [error for seen in examined for error in seen.errors]
    images = sum(bool(seen.errors) for seen in examined)
    lines.append(f"problems   {len(errors)}, in {images} of {len(looked)} images read")
    sys.stdout.write("\n".join(lines) + "\n")
    return errors


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
    return " ".join(text.split())


def _report(dataset: Dataset, root: Path, examined: Sequence[Examined]) -> list[str]:
    counts = {part: len(dataset.parts[part]) for part in PARTS}
    entities: Counter[str] = Counter()
    images: Counter[str] = Counter()
    for seen in examined:
        entities.update(seen.entities)
        images.update(seen.entities.keys())
    sizes = sorted({seen.size for seen in examined if seen.size})
    without = sum(seen.size is not None and not seen.entities for seen in examined)
    lines = [
        f"{dataset.spec.title} in {root}",
        f"images     {sum(counts.values())}: "
        + ", ".join(f"{count} {part}" for part, count in counts.items()),
        f"read       {len(examined)}; {without} of them without an entity",
        f"entities   {entities.total()}",
        f"classes    {len(dataset.classes)}: {len(dataset.base)} base, "
        f"{len(dataset.target)} target",
    ]
    lines += [f"left out   {count} files: {why}" for why, count in dataset.left_out.items()]
    width = max((len(name) for name in dataset.classes), default=0)
    for name in dataset.classes:
        role = "base" if name in dataset.base else "target"
        lines.append(
            f"  {name:{width}}  {role:6}  {entities[name]:7} entities in {images[name]:6} images"
        )
    if sizes:
        (h0, w0), (h1, w1) = sizes[0], sizes[-1]
        lines.append(f"sizes      {h0}x{w0} to {h1}x{w1} pixels (height x width)")
    return lines
