"""Requests from the options of `cpcsam segment`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpcsam.contract import MaskSelection
from cpcsam.errors import ConfigError
from cpcsam.images.arguments import read_options_of

if TYPE_CHECKING:
    from cpcsam.client.requests import SegmentRequest

__all__ = ["segment_request_of", "wrong_option"]


def segment_request_of(args: argparse.Namespace) -> SegmentRequest:
    """Build the request of the options, without an image.

    Raises:
        ConfigError: the options are incompatible.
    """
    from cpcsam.client.masks import MaskFormat
    from cpcsam.client.requests import ClassSearch, Everything, SegmentRequest

    modes_given = [
        name
        for name, given in (
            ("prompts", args.prompts or args.mask),
            ("--class", args.classes),
            ("--everything", args.everything),
        )
        if given
    ]
    if len(modes_given) != 1:
        got = " and ".join(modes_given) or "none"
        raise wrong_option(
            "prompts", got, "--click X,Y or --box X0,Y0,X1,Y1, --class or --everything"
        )
    (mode,) = modes_given
    for option, modes in (
        ("--threshold", ("--class",)),
        ("--points-per-side", ("--everything",)),
        ("--min-area", ("--everything",)),
        ("--min-stability", ("--everything",)),
        ("--min-iou", ("--class", "--everything")),
        ("--mask-input", ("prompts",)),
        ("--mask", ("prompts",)),
        ("--logits", ("prompts",)),
        ("--no-calibration", ("prompts",)),
        ("--tile-size", ("prompts", "--everything")),
        ("--tile-overlap", ("prompts", "--everything")),
    ):
        value = getattr(args, option[2:].replace("-", "_"))
        if value is not None and value is not False and mode not in modes:
            raise wrong_option(option, mode, f"{' or '.join(modes)} with it")
    return SegmentRequest(
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
        read_options=read_options_of(args),
        calibrate=not args.no_calibration,
    )


def _prompts(args: argparse.Namespace) -> Any:
    """Return the prompts, with their mask inputs."""
    if args.mask:
        from cpcsam.client.prompts import Prompt

        files = [_content(path) for path in args.mask]
        prompts = args.prompts or (Prompt(),) * len(files)
        if args.mask_input is not None or len(files) != len(prompts):
            raise wrong_option(
                "--mask", f"{len(files)} masks", "one per prompt, and no --mask-input"
            )
        return tuple(
            replace(prompt, mask=file) for prompt, file in zip(prompts, files, strict=True)
        )
    if args.mask_input is None:
        return args.prompts
    from cpcsam.cli.batch import read_logits

    masks = read_logits(args.mask_input)
    if len(masks) != len(args.prompts):
        raise wrong_option(
            "--mask-input", f"{len(masks)} masks", f"{len(args.prompts)}, one per prompt"
        )
    return tuple(
        replace(prompt, mask_input=mask) for prompt, mask in zip(args.prompts, masks, strict=True)
    )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError.of(
            "--mask",
            got=f"{path} ({error.strerror})",
            expected="a readable PNG file",
            fix="correct the path",
        ) from error


def wrong_option(what: str, got: str, expected: str) -> ConfigError:
    """Return the error of an option."""
    return ConfigError.of(what, got=got, expected=expected, fix="see cpcsam segment --help")
