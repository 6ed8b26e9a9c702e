"""`cpcsam segment`: files, folders and globs, by prompts, class names or everything."""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cpcsam.cli.connection import Commands, add_connection, connect
from cpcsam.cli.prompt_options import add_prompts
from cpcsam.commands import count, share
from cpcsam.contract import MaskSelection
from cpcsam.errors import ConfigError

if TYPE_CHECKING:
    from cpcsam.cli.batch import Done
    from cpcsam.client.requests import Question
    from cpcsam.client.sync_client import SegmentationClient

__all__ = ["add_to"]

DESCRIPTION: Final = """\
Segment images: files, folders with all below them, and globs ("scans/**/*.png", quoted).

For each image a folder of its name is written below DIR: masks.json, a COCO dataset with run
lengths, score, stability, area and prompt; and overlay.png, the image with masks, clicks and
scores. Names mirror the paths below the folder that holds all images. DIR/coco.json joins what was
written about several.

An image that fails is named and left out, and the exit code is 3. Run it again to go on after an
interruption: what the same question about the same image has already made is kept."""
EXAMPLES: Final = """\
examples:
  cpcsam segment cells.png --click 120,80
  cpcsam segment cells.png --click 120,80 --click 40,200           two entities
  cpcsam segment cells.png --click 120,80 --negative 150,80        one entity, without what is there
  cpcsam segment cells.png --box 90,60,160,110 --also 100,100      one entity, box and click
  cpcsam segment cells.png --click 120,80 --mask-selection all     whole, part and part of a part
  cpcsam segment scans/ --class nucleus --out out/scans --jobs 8   all entities of a class
  cpcsam segment "scans/**/*.tif" --everything --tile-size 512     everything, in tiles
  cpcsam segment cells.png --click 120,80 --logits                 and then, to improve on it:
  cpcsam segment cells.png --click 120,80 --negative 150,80 --mask-input out/cells/logits.npz

Coordinates are pixels of the upright image from its top left corner."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "segment",
        help="segment files, folders and globs",
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    parser.set_defaults(run=_run)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a file, a folder or a glob")
    add_prompts(parser)
    prompts = parser.add_argument_group("how prompts are answered")
    prompts.add_argument(
        "--mask-selection",
        choices=[choice.name.lower() for choice in MaskSelection],
        default=MaskSelection.SINGLE.name.lower(),
        help="for a prompt: the single mask, the best of three, or all three (%(default)s)",
    )
    text = "improve on these masks, one for each prompt: a logits.npz that --logits wrote"
    prompts.add_argument("--mask-input", type=Path, metavar="FILE", help=text)

    found = parser.add_argument_group("or what is found (the server has the defaults)")
    text = "all entities of a class that the server knows; may be given again"
    found.add_argument("--class", dest="classes", action="append", metavar="NAME", help=text)
    text = "everything that a grid of clicks hits"
    found.add_argument("--everything", action="store_true", help=text)
    text = "least predicted IoU of a mask, 0 to 1"
    found.add_argument("--min-iou", type=share, metavar="X", help=text)
    text = "with --class: least probability of the class at a place, 0 to 1"
    found.add_argument("--threshold", type=share, metavar="X", help=text)
    text = "with --everything: least stability of a mask, 0 to 1"
    found.add_argument("--min-stability", type=share, metavar="X", help=text)
    text = "with --everything: clicks along each side of the grid"
    found.add_argument("--points-per-side", type=count, metavar="N", help=text)
    text = "with --everything: least pixels of a mask"
    found.add_argument("--min-area", type=count, metavar="N", help=text)

    tiles = parser.add_argument_group("large images, not with --class")
    text = "look at overlapping tiles of so many pixels a side, enlarged (the whole image)"
    tiles.add_argument("--tile-size", type=count, default=0, metavar="N", help=text)
    text = "by which they overlap, as a part of their side"
    tiles.add_argument("--tile-overlap", type=share, metavar="X", help=text)

    outputs = parser.add_argument_group("what is written")
    outputs.add_argument(
        "--out", type=Path, default=Path("out"), metavar="DIR", help="folder to write (%(default)s)"
    )
    outputs.add_argument("--no-overlay", action="store_true", help="no overlay.png")
    text = "each mask as masks/NUMBER.png too, in the order of masks.json"
    outputs.add_argument("--png", action="store_true", help=text)
    text = "outlines along the sides of pixels as `rings` in masks.json too"
    outputs.add_argument("--polygons", action="store_true", help=text)
    text = "logits.npz too, for --mask-input; with prompts"
    outputs.add_argument("--logits", action="store_true", help=text)
    outputs.add_argument("--overwrite", action="store_true", help="keep no earlier answer")
    text = "images in work at once (%(default)s)"
    outputs.add_argument("--jobs", type=count, default=4, metavar="N", help=text)
    outputs.add_argument("--quiet", action="store_true", help="show errors alone")
    add_connection(parser)


def _run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from cpcsam.cli.batch import Outputs, merge_outputs, segment_files
    from cpcsam.cli.image_paths import find_images

    question = _question(args)
    images = find_images(args.images)
    if args.mask_input is not None and len(images) > 1:
        raise _wrong("--mask-input", f"{len(images)} images", "one image")
    outputs = Outputs(args.out, not args.no_overlay, args.png, args.overwrite)
    done: list[Done] = []
    silent = True if args.quiet or len(images) == 1 else None  # None: silent where no terminal is
    with connect(args) as client, tqdm(total=len(images), unit="image", disable=silent) as bar:
        _check_classes(client, question.classes)
        work = segment_files(client, images, question, outputs, args.jobs)
        with contextlib.closing(work):
            for one in work:
                done.append(one)
                bar.update()
                if one.error is not None:
                    told = " ".join(f"cpcsam segment: {one.image.path}: {one.error}".split())
                    bar.write(told, file=sys.stderr)
                elif not args.quiet:
                    bar.write(_line(one, args.out))
    failed = {one.image for one in done if one.error is not None}
    if len(images) > 1 and len(failed) < len(images):
        from cpcsam.artifacts.manifest import write_atomic

        whole = merge_outputs([image for image in images if image not in failed], args.out)
        write_atomic(args.out / "coco.json", (json.dumps(whole) + "\n").encode())
        if not args.quiet:
            kept = sum(one.error is None and one.scores is None for one in done)
            print(
                f"{len(images)} images: {len(images) - len(failed) - kept} segmented, {kept} kept, "
                f"{len(failed)} failed; {args.out / 'coco.json'}"
            )
    return 0 if not failed else 2 if len(failed) == len(images) else 3


def _check_classes(client: SegmentationClient, names: Sequence[str]) -> None:
    """Refuse unknown names once, not for each image.

    Raises:
        ConfigError: the server does not know a name.
    """
    known = {one.name for one in client.classes()} if names else set()
    for name in names:
        if name not in known:
            told = ", ".join(sorted(known)) or "none, as the server knows no class"
            raise ConfigError.of(
                "--class", got=name, expected=told, fix="correct it, or cpcsam classes add"
            )


def _question(args: argparse.Namespace) -> Question:
    """What the options ask, about no image yet.

    Raises:
        ConfigError: options that do not go together.
    """
    from cpcsam.client.masks import MaskFormat
    from cpcsam.client.requests import ClassSearch, Everything, Question

    asked = [
        name
        for name, wanted in (
            ("prompts", args.prompts),
            ("--class", args.classes),
            ("--everything", args.everything),
        )
        if wanted
    ]
    if len(asked) != 1:
        told = " and ".join(asked) or "none"
        raise _wrong("prompts", told, "--click X,Y or --box X0,Y0,X1,Y1, --class or --everything")
    (mode,) = asked
    for option, modes in (
        ("--threshold", ("--class",)),
        ("--points-per-side", ("--everything",)),
        ("--min-area", ("--everything",)),
        ("--min-stability", ("--everything",)),
        ("--min-iou", ("--class", "--everything")),
        ("--mask-input", ("prompts",)),
        ("--logits", ("prompts",)),
        ("--tile-size", ("prompts", "--everything")),
        ("--tile-overlap", ("prompts", "--everything")),
    ):
        given = getattr(args, option[2:].replace("-", "_"))
        if given not in (None, False, 0) and mode not in modes:
            raise _wrong(option, mode, f"{' or '.join(modes)} beside it")
    return Question(
        b"",
        _prompts(args),
        classes=args.classes or (),
        class_search=ClassSearch(threshold=args.threshold, min_iou=args.min_iou)
        if args.classes
        else None,
        everything=Everything(
            points_per_side=args.points_per_side,
            min_iou=args.min_iou,
            min_stability=args.min_stability,
            min_area=args.min_area,
        )
        if args.everything
        else None,
        mask_selection=MaskSelection[args.mask_selection.upper()],
        mask_format=MaskFormat.POLYGONS if args.polygons else MaskFormat.COCO_RLE,
        low_res_masks=args.logits,
        tile_size=args.tile_size,
        tile_overlap=args.tile_overlap,
    )


def _prompts(args: argparse.Namespace) -> Any:
    """The prompts, with their mask inputs."""
    if args.mask_input is None:
        return args.prompts
    from cpcsam.cli.batch import read_logits

    masks = read_logits(args.mask_input)
    if len(masks) != len(args.prompts):
        raise _wrong("--mask-input", f"{len(masks)} masks", f"{len(args.prompts)}, one a prompt")
    return tuple(
        replace(prompt, mask_input=mask) for prompt, mask in zip(args.prompts, masks, strict=True)
    )


def _wrong(what: str, got: str, expected: str) -> ConfigError:
    return ConfigError.of(what, got=got, expected=expected, fix="see cpcsam segment --help")


def _line(done: Done, out: Path) -> str:
    """What is told of an image that was answered."""
    folder = out / done.image.name
    if done.scores is None:
        return f"{done.image.path}: kept, {folder}"
    masks = f"{len(done.scores)} mask{'' if len(done.scores) == 1 else 's'}"
    score = f" (mean score {statistics.fmean(done.scores):.3f})" if done.scores else ""
    return f"{done.image.path}: {masks}{score}, {folder}"
