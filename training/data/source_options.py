"""Command-line options that name a model and annotated images, shared by commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from cpcsam.commands import ArgumentParser
from cpcsam.images.arguments import add_read_options, read_options_of
from cpcsam.images.options import Intensity
from training.data.datasets.protocol import Classes, Part
from training.data.sample import Sample
from training.data.sources import SourceConfig, account_line, read_source

__all__ = [
    "add_model_options",
    "add_source_options",
    "intensity_of",
    "part_of",
    "read_scored",
    "require_model",
    "source_of",
]


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add --base and --run."""
    parser.add_argument("--base", type=Path, metavar="DIR", help="a base, such as weights/vit_t")
    parser.add_argument(
        "--run",
        type=Path,
        metavar="DIR",
        help="an artifact of kind run, such as runs/NAME/best; its CaPL calibrates the prompts",
    )


def require_model(parser: ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with an error if the command line names no model."""
    if options.base is None and options.run is None:
        parser.error("got neither --base nor --run, expected one of them")


def add_source_options(parser: argparse.ArgumentParser, part: Part = "train") -> None:
    """Add the options that `source_of` reads.

    Args:
        parser: of the command.
        part: of a dataset to take by default.
    """
    parser.add_argument("--bbbc038", type=Path, metavar="DIR", help="folder of BBBC038v1")
    parser.add_argument("--ids", type=Path, metavar="FILE", help="list of ids in that folder")
    parser.add_argument("--image", type=Path, metavar="FILE", help="one image instead")
    parser.add_argument("--instances", type=Path, metavar="FILE", help="its label image")
    parser.add_argument(
        "--region", type=_region, metavar="X0,Y0,X1,Y1", help="only this part of the images"
    )
    parser.add_argument(
        "--dataset", metavar="NAME", help="a dataset of docs/guides/datasets.md instead"
    )
    parser.add_argument("--root", type=Path, metavar="DIR", help="where it is unpacked")
    add_read_options(parser)
    parser.add_argument(
        "--part", choices=get_args(Part), default=part, help=f"its part (default: {part})"
    )
    parser.add_argument(
        "--crowds", action="store_true", help="take its crowds (COCO's iscrowd) as entities"
    )
    parser.add_argument(
        "--classes", choices=get_args(Classes), default="all", help="its classes (default: all)"
    )


def source_of(options: argparse.Namespace) -> SourceConfig:
    """Return the source that the options of `add_source_options` name."""
    return SourceConfig(
        bbbc038=options.bbbc038,
        ids=options.ids,
        image=options.image,
        instances=options.instances,
        region=options.region,
        dataset=options.dataset,
        root=options.root,
        part=options.part,
        classes=options.classes,
        page=options.page,
        channels=options.channels,
        crowds=options.crowds,
    )


def read_scored(options: argparse.Namespace) -> Sequence[Sample]:
    """Read the images to score, and write to stderr what was read and is used of them.

    Raises:
        ArtifactError: the run or base is no artifact.
        ConfigError: the options name no source, or several.
        DataError: a file is missing or unreadable, or the region lies outside its image.
    """
    samples = read_source(source_of(options), "source", intensity_of(options))
    name = "source" if options.dataset is None else f"source, part {options.part}"
    sys.stderr.write(f"{account_line(samples, name)}\n")
    return samples


def part_of(options: argparse.Namespace) -> dict[str, Part]:
    """Return the part of the dataset under its name, for reports; nothing without a dataset."""
    return {} if options.dataset is None else {"part": options.part}


def intensity_of(options: argparse.Namespace) -> Intensity:
    """Return the policy of the option --intensity, else of the run's or base's manifest.

    Raises:
        ArtifactError: that is no artifact.
    """
    return read_options_of(options).intensity or Intensity.of_artifact(options.run or options.base)


def _region(text: str) -> tuple[int, int, int, int]:
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected X0,Y0,X1,Y1 in pixels")
    x0, y0, x1, y1 = map(int, parts)
    return x0, y0, x1, y1
