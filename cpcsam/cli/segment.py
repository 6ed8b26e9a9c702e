"""Command `cpcsam segment`: files, folders and globs, by prompts, class names or everything."""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cpcsam.cli.formats import add_format_option, check_formats, write_formats
from cpcsam.cli.options import Commands, add_connection, add_prompts, connect
from cpcsam.cli.segment_request import segment_request_of, wrong_option
from cpcsam.commands import count, count_from_0, share
from cpcsam.contract import MaskSelection
from cpcsam.errors import ConfigError, CpcSamError
from cpcsam.images.arguments import add_read_options

if TYPE_CHECKING:
    from cpcsam.cli.batch import FileOutcome, Outputs
    from cpcsam.cli.image_paths import ImagePath
    from cpcsam.client.requests import SegmentRequest
    from cpcsam.client.results import Description
    from cpcsam.client.sync_client import SegmentationClient

__all__ = ["add_to"]

DESCRIPTION: Final = """\
Segment images: files, folders (recursively), and quoted globs such as "scans/**/*.png".

Each image gets a folder of its name in DIR: masks.json, a COCO dataset with RLE, score, stability,
area and prompt; and overlay.png, the image with masks, points, their calibration, and scores. Names
mirror the paths below the common folder. DIR/coco.json merges the datasets of several images.
With --format, DIR/FORMAT holds the masks of all images as the tools of that format read them.

A failed image is reported and left out, and the exit code is 3. An interrupted run can be resumed:
outputs of the same request to the same model for the same image are kept."""
EXAMPLES: Final = """\
examples:
  cpcsam segment cells.png --click 120,80
  cpcsam segment cells.png --click 120,80 --click 40,200           two entities
  cpcsam segment cells.png --click 120,80 --negative 150,80        one entity and a background point
  cpcsam segment cells.png --box 90,60,160,110 --also 100,100      one entity, box and click
  cpcsam segment cells.png --click 120,80 --mask-selection all     whole, part and subpart
  cpcsam segment scans/ --class nucleus --out out/scans --jobs 8   all entities of a class
  cpcsam segment "scans/**/*.tif" --everything --tile-size 512     everything, in tiles
  cpcsam segment cells.png --click 120,80 --logits                 and then, to improve on it:
  cpcsam segment cells.png --click 120,80 --negative 150,80 --mask-input out/cells/logits.npz
  cpcsam segment cells.png --mask rough.png                        improve on a mask of any origin
  cpcsam segment scans/ --everything --format geojson,yolo-seg     also for QuPath and Ultralytics

Coordinates are pixels of the upright image from its top left corner."""


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "segment",
        help="segment files, folders and globs",
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    parser.set_defaults(run=_run)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a file, a folder or a glob")
    add_prompts(parser)
    prompts = parser.add_argument_group("masks of prompts")
    prompts.add_argument(
        "--mask-selection",
        choices=[choice.name.lower() for choice in MaskSelection],
        default=MaskSelection.SINGLE.name.lower(),
        help="masks per prompt: the single mask, the best of three, or all three (%(default)s)",
    )
    text = "refine these masks, one per prompt: a logits.npz that --logits wrote"
    prompts.add_argument("--mask-input", type=Path, metavar="FILE", help=text)
    text = "refine this mask, a PNG file of the image's size, not 0 on the entity: one per prompt, "
    text += "or alone, each a prompt of its own; may be repeated"
    prompts.add_argument("--mask", type=Path, action="append", metavar="FILE", help=text)
    text = "take the prompts as they are given, if the model calibrates them"
    prompts.add_argument("--no-calibration", action="store_true", help=text)
    search = parser.add_argument_group("classes or everything, instead of prompts")
    text = "all entities of a class that the server knows; may be repeated"
    search.add_argument("--class", dest="classes", action="append", metavar="NAME", help=text)
    text = "everything, by the automatic mask generator"
    search.add_argument("--everything", action="store_true", help=text)
    text = "minimum predicted IoU of a mask, 0 to 1"
    search.add_argument("--min-iou", type=share, metavar="X", help=text)
    text = "with --class: minimum class probability at a point prompt, 0 to 1"
    search.add_argument("--threshold", type=share, metavar="X", help=text)
    text = "with --everything: minimum stability score of a mask, 0 to 1"
    search.add_argument("--min-stability", type=share, metavar="X", help=text)
    text = "with --everything: points along each side of the grid"
    search.add_argument("--points-per-side", type=count, metavar="N", help=text)
    text = "with --everything: minimum number of pixels of a mask"
    search.add_argument("--min-area", type=count, metavar="N", help=text)

    add_read_options(parser.add_argument_group("reading of image files"))

    tiles = parser.add_argument_group("tiles of large images, not with --class")
    text = "side of overlapping tiles in pixels, each enlarged; 0 for the whole image "
    text += "(default: the model's window, see cpcsam status)"
    tiles.add_argument("--tile-size", type=count_from_0, metavar="N", help=text)
    text = "overlap of tiles, as a fraction of their side"
    tiles.add_argument("--tile-overlap", type=share, metavar="X", help=text)

    outputs = parser.add_argument_group("outputs")
    outputs.add_argument(
        "--out", type=Path, default=Path("out"), metavar="DIR", help="output folder (%(default)s)"
    )
    outputs.add_argument("--no-overlay", action="store_true", help="no overlay.png")
    add_format_option(outputs)
    text = "also write each mask as masks/NUMBER.png, in the order of masks.json"
    outputs.add_argument("--png", action="store_true", help=text)
    text = "also write polygons along pixel edges, as `rings` in masks.json"
    outputs.add_argument("--polygons", action="store_true", help=text)
    text = "also write logits.npz, for --mask-input; with prompts"
    outputs.add_argument("--logits", action="store_true", help=text)
    text = "segment again even if the output is up to date"
    outputs.add_argument("--overwrite", action="store_true", help=text)
    text = "number of images processed concurrently (%(default)s)"
    outputs.add_argument("--jobs", type=count, default=4, metavar="N", help=text)
    outputs.add_argument("--quiet", action="store_true", help="print errors only")
    add_connection(parser)


def _run(args: argparse.Namespace) -> int:
    import pycocotools.mask  # noqa: F401  a missing package fails before the first request
    from tqdm import tqdm

    from cpcsam.cli.batch import Outputs, merge_outputs, segment_files
    from cpcsam.cli.image_paths import count_left_out, find_images

    request = segment_request_of(args)
    images = find_images(args.images)
    left_out = count_left_out(args.images)
    if left_out and not args.quiet:
        by_suffix = ", ".join(f"{count} {suffix}" for suffix, count in left_out.most_common())
        print(f"{len(images)} images; left out {left_out.total()} other files: {by_suffix}")
    if (args.mask_input is not None or args.mask) and len(images) > 1:
        raise wrong_option("--mask-input or --mask", f"{len(images)} images", "a single image")
    check_formats(args.formats, images, args.out)
    outputs = Outputs(args.out, not args.no_overlay, args.png, args.overwrite)
    outcomes: list[FileOutcome] = []
    warned: set[str] = set()
    # With None, tqdm shows the bar on a terminal only.
    silent = True if args.quiet or len(images) == 1 else None
    with connect(args) as client, tqdm(total=len(images), unit="image", disable=silent) as bar:
        model = _model_of(client, images, request, outputs)
        work = segment_files(client, images, request, outputs, model, args.jobs)
        # Closing cancels the queued images, also when Ctrl-C leaves the loop.
        with contextlib.closing(work):
            for outcome in work:
                outcomes.append(outcome)
                bar.update()
                if outcome.error is not None:
                    message = f"cpcsam segment: {outcome.image.path}: {outcome.error}"
                    bar.write(" ".join(message.split()), file=sys.stderr)
                elif not args.quiet:
                    bar.write(_summary(outcome, args.out))
                    # Images of one size have the same warnings.
                    for warning in [text for text in outcome.warnings if text not in warned]:
                        message = f"cpcsam segment: {outcome.image.path}: warning: {warning}"
                        bar.write(message, file=sys.stderr)
                        warned.add(warning)
    failed = {outcome.image for outcome in outcomes if outcome.error is not None}
    done = [image for image in images if image not in failed]
    if done and (len(images) > 1 or "coco" in args.formats):
        from cpcsam.artifacts.manifest import write_atomic

        merged = merge_outputs(done, args.out)
        write_atomic(args.out / "coco.json", (json.dumps(merged) + "\n").encode())
        if not args.quiet:
            kept = sum(outcome.error is None and outcome.scores is None for outcome in outcomes)
            print(
                f"{len(images)} images: {len(images) - len(failed) - kept} segmented, {kept} kept, "
                f"{len(failed)} failed; {args.out / 'coco.json'}"
            )
    if done:
        write_formats(args.formats, done, args.out, request.read_options, args.quiet)
    return 0 if not failed else 2 if len(failed) == len(images) else 3


def _model_of(
    client: SegmentationClient,
    images: Sequence[ImagePath],
    request: SegmentRequest,
    outputs: Outputs,
) -> Description | None:
    """Return the server's model; None if no image has to be sent and the server does not tell.

    Raises:
        CpcSamError: the server does not answer, or does not know a class.
    """
    from cpcsam.cli.batch import all_kept

    healthy = client.healthy()
    if not healthy and all_kept(images, request, outputs):
        return None
    model = None
    try:
        model = client.describe()
        _check_classes(client, request.classes)
    except CpcSamError:
        if not healthy or not all_kept(images, request, outputs):
            raise
    return model


def _check_classes(client: SegmentationClient, names: Sequence[str]) -> None:
    """Reject unknown class names before any image is sent.

    Raises:
        ConfigError: the server does not know a class.
    """
    known = {entry.name for entry in client.classes()} if names else set()
    for name in names:
        if name not in known:
            expected = ", ".join(sorted(known)) or "none, as the server knows no class"
            raise ConfigError.of(
                "--class", got=name, expected=expected, fix="correct it, or cpcsam classes add"
            )


def _summary(outcome: FileOutcome, out: Path) -> str:
    """Summarise a segmented image in a line."""
    folder = out / outcome.image.name
    if outcome.scores is None:
        return f"{outcome.image.path}: kept, {folder}"
    masks = f"{len(outcome.scores)} mask{'' if len(outcome.scores) == 1 else 's'}"
    score = f" (mean score {statistics.fmean(outcome.scores):.3f})" if outcome.scores else ""
    return f"{outcome.image.path}: {masks}{score}, {folder}"
