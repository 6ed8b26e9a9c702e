"""Command line: segment an image by clicks and boxes, and see whether the server is well.

`cpcsam segment` sends one image; `--click` and `--box` each begin a prompt of their own, `--also`
and `--negative` add a click to the prompt begun last.
"""

from __future__ import annotations

import argparse
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import cpcsam
from cpcsam.artifact import write_atomic
from cpcsam.channel import DEFAULT_ADDRESS
from cpcsam.command import ArgumentParser, exit_code_of, positive
from cpcsam.contract import MaskSelection, PointLabel
from cpcsam.errors import ConfigError, ServingError
from cpcsam.prompt import Prompt

__all__ = ["main"]

SEGMENT_HELP: Final = """\
Write DIR/overlay.png (masks, clicks, boxes, scores) and DIR/masks.json (COCO annotations with run
lengths, score, bbox as XYWH, area and prompt).

--click and --box each begin a new prompt, that is a new entity. --also and --negative add a click
to the prompt begun last. Coordinates are pixels of the upright image from its top left corner."""
SEGMENT_EXAMPLES: Final = """\
examples:
  cpcsam segment cells.png --click 120,80
  cpcsam segment cells.png --click 120,80 --click 40,200           two entities
  cpcsam segment cells.png --click 120,80 --negative 150,80        one entity, without what is there
  cpcsam segment cells.png --box 90,60,160,110 --also 100,100      one entity, box and click
  cpcsam segment cells.png --click 120,80 --mask-selection all --out out/cells"""
TOKEN_VARIABLE: Final = "CPCSAM_TOKEN"
STATUS_EXAMPLES: Final = """\
examples:
  cpcsam status
  cpcsam status --address gateway:50051 --timeout 5
  cpcsam status --address gateway:50051 --ca ca.pem --token-file token"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when done, 1 if a package is missing, 2 after an error, told in one line.
    """
    args = _parser().parse_args(argv)
    return exit_code_of(lambda: args.run(args), f"cpcsam {args.command}")


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="cpcsam",
        description="Segment images by clicks and boxes through a running CPC-SAM gateway.",
        epilog="examples:\n  cpcsam segment cells.png --click 120,80\n  cpcsam status",
    )
    parser.add_argument("--version", action="version", version=f"cpcsam {cpcsam.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    segment = commands.add_parser(
        "segment",
        help="segment one image",
        description=SEGMENT_HELP,
        epilog=SEGMENT_EXAMPLES,
    )
    segment.set_defaults(run=_segment, prompts=())
    segment.add_argument("image", type=Path, metavar="IMAGE", help="an image file")
    for option, numbers, text in (
        ("--click", "X,Y", "a new prompt: a point on the entity"),
        ("--box", "X0,Y0,X1,Y1", "a new prompt: a box around the entity"),
        ("--also", "X,Y", "a further point on the entity"),
        ("--negative", "X,Y", "a point beside the entity"),
    ):
        segment.add_argument(option, action=_AddToPrompts, metavar=numbers, help=text)
    segment.add_argument(
        "--mask-selection",
        choices=[choice.name.lower() for choice in MaskSelection],
        default=MaskSelection.SINGLE.name.lower(),
        help="for a prompt: the single mask, the best of three, or all three (%(default)s)",
    )
    segment.add_argument(
        "--out", type=Path, default=Path("out"), metavar="DIR", help="folder to write (%(default)s)"
    )
    status = commands.add_parser(
        "status",
        help="show the server's health, model and limits",
        description="Show the server's health, model and limits.",
        epilog=STATUS_EXAMPLES,
    )
    status.set_defaults(run=_status)
    for command in (segment, status):
        command.add_argument(
            "--address",
            default=DEFAULT_ADDRESS,
            metavar="HOST:PORT",
            help="the gateway (%(default)s)",
        )
        command.add_argument("--tls", action="store_true", help="speak TLS")
        text = "trust these certificates, PEM (the system's); implies --tls"
        command.add_argument("--ca", type=Path, metavar="FILE", help=text)
        text = f"file that holds the bearer token (the variable {TOKEN_VARIABLE})"
        command.add_argument("--token-file", type=Path, metavar="FILE", help=text)
        command.add_argument(
            "--timeout", type=positive, default=60.0, metavar="S", help="seconds (%(default)s)"
        )
    return parser


class _AddToPrompts(argparse.Action):
    """Begin a prompt or add to the last one; argparse calls it in the order of the options."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Read the numbers of one option."""
        form = str(self.metavar)
        numbers = _numbers(str(values))
        if len(numbers) != form.count(",") + 1:
            raise argparse.ArgumentError(self, f"got {values!r}, expected numbers as {form}")
        prompts: tuple[Prompt, ...] = namespace.prompts
        if self.dest == "box":
            x0, y0, x1, y1 = numbers
            namespace.prompts = (*prompts, Prompt(box=(x0, y0, x1, y1)))
            return
        x, y = numbers
        if self.dest == "click":
            namespace.prompts = (*prompts, Prompt.click(x, y))
            return
        if not prompts:
            raise argparse.ArgumentError(self, "comes before any --click or --box to add it to")
        last = prompts[-1]
        label = PointLabel.BACKGROUND if self.dest == "negative" else PointLabel.FOREGROUND
        longer = Prompt((*last.point_coords, (x, y)), (*last.point_labels, int(label)), last.box)
        namespace.prompts = (*prompts[:-1], longer)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return []


def _connection(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of a client."""
    token = os.environ.get(TOKEN_VARIABLE)
    if args.token_file is not None:
        try:
            token = args.token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError.of(
                f"--token-file {args.token_file}",
                got=getattr(error, "strerror", None) or "no text",
                expected="a file that holds a token",
                fix="correct the path",
            ) from error
    secured = {"token": token or None, "tls": args.tls, "ca": args.ca}
    return {"address": args.address, "timeout_s": args.timeout, **secured}


def _segment(args: argparse.Namespace) -> None:
    from cpcsam.client import SegmentationClient, encode_image
    from cpcsam.coco import coco_annotations
    from cpcsam.overlay import draw_overlay
    from cpcsam.transforms import decode_image

    if not args.prompts:
        raise ConfigError.of(
            "prompts", got="none", expected="--click X,Y or --box X0,Y0,X1,Y1", fix="add one"
        )
    image_bytes = encode_image(args.image)
    with SegmentationClient(**_connection(args)) as client:
        result = client.segment(
            image_bytes, args.prompts, mask_selection=MaskSelection[args.mask_selection.upper()]
        )
    annotations = coco_annotations(result)
    picture = io.BytesIO()
    draw_overlay(decode_image(image_bytes), result).save(picture, "PNG")
    _write(args.out / "masks.json", (json.dumps(annotations, indent=2) + "\n").encode())
    _write(args.out / "overlay.png", picture.getvalue())
    for annotation in annotations:
        print(
            f"prompt {annotation['prompt_index']}: score {annotation['score']:.3f}, "
            f"{annotation['area']} pixels"
        )
    print(args.out / "overlay.png")
    print(args.out / "masks.json")


def _write(path: Path, content: bytes) -> None:
    try:
        write_atomic(path, content)
    except OSError as error:
        raise ConfigError.of(
            "--out",
            got=f"{path} ({error.strerror})",
            expected="a folder to write in",
            fix="give another",
        ) from error


def _status(args: argparse.Namespace) -> None:
    from cpcsam.client import SegmentationClient

    with SegmentationClient(**_connection(args)) as client:
        told = client.describe()
        healthy = client.healthy()
    print(f"address   {args.address}")
    print(f"health    {'serving' if healthy else 'not serving'}")
    model = f"{told.model_size}, {told.image_size} px"
    print(f"model     {told.model_name} {told.model_version} ({model})")
    print(f"versions  gateway {told.gateway_version}, Triton {told.triton_version}")
    print(f"formats   {', '.join(told.image_formats)}")
    for name, limit in told.limits.items():
        print(f"limit     {name} {limit}")
    if not healthy:
        raise ServingError.of(
            "health", got="not serving", expected="serving", fix="see the gateway's log"
        )
