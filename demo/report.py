"""Report of the demonstration: overlay image, masks, figures and HTML page."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.client.coco import coco_annotations
from cpcsam.client.masks import Mask
from cpcsam.client.overlay import draw_overlay
from cpcsam.client.prompts import Prompt
from cpcsam.client.results import SegmentResult
from reporting.html import data_uri, render_page
from reporting.run_report import RunReport, Table
from reporting.tables import Cell, interval_of, paired_interval

__all__ = ["COMPARED", "conclusion", "enlarged_overlay", "four_moves", "report_of", "write_report"]

COMPARED: Final = {
    "dice_click": "fine-tuned, with CaPL (served over gRPC)",
    "dice_without_capl": "fine-tuned without CaPL for as many steps",
    "dice_no_capl": "fine-tuned with CaPL, CaPL switched off",
    "dice_base": "the base before fine-tuning",
    "dice_threshold": "Otsu's component under the click (no training)",
}
ENLARGEMENT: Final = 3
SHOWN_CLICKS: Final = 4
SHOWN_MARGIN: Final = 32
"""In pixels of the image, around a click that is shown with its move."""


def conclusion(report: dict[str, Any]) -> str:
    """Describe, for both kinds of clicks, the best of the methods and its margin."""
    sentences = []
    for clicks, dice in (("accurate", report), ("careless", report["careless"])):
        first, second = sorted(COMPARED, key=lambda name: -dice[name])[:2]
        sentences.append(
            f"By {clicks} clicks best: {COMPARED[first]}, mean Dice {dice[first]:.3f}, "
            f"{100 * (dice[first] - dice[second]):.1f} points above {COMPARED[second]}."
        )
    return " ".join(sentences)


def enlarged_overlay(image: NDArray[np.uint8], result: SegmentResult) -> Image.Image:
    """Draw masks, clicks and scores on the image, enlarged so that small nuclei can be read."""
    height, width = (ENLARGEMENT * side for side in result.original_size)
    shown = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    brightened = np.asarray(shown).astype(np.float32) * 1.6
    scaled = SegmentResult(
        request_id=result.request_id,
        original_size=(height, width),
        prompts=tuple(
            Prompt(
                # The centre of the 3 × 3 pixels that a pixel becomes.
                tuple((x * ENLARGEMENT + 1, y * ENLARGEMENT + 1) for x, y in prompt.point_coords),
                prompt.point_labels,
            )
            for prompt in result.prompts
        ),
        calibrated_prompts=tuple(
            None
            if prompt is None
            else Prompt(
                tuple((x * ENLARGEMENT + 1, y * ENLARGEMENT + 1) for x, y in prompt.point_coords),
                prompt.point_labels,
            )
            for prompt in result.calibrated_prompts
        ),
        masks=tuple(tuple(_enlarged(mask) for mask in masks) for masks in result.masks),
        model_name=result.model_name,
        model_version=result.model_version,
        timings_ms={},
    )
    return draw_overlay(brightened.clip(0, 255).astype(np.uint8), scaled)


def four_moves(picture: Image.Image, result: SegmentResult) -> Image.Image:
    """Cut the surroundings of four careless clicks, those moved farthest, out of the overlay.

    Args:
        picture: what `enlarged_overlay` drew.
        result: its masks and clicks, in pixels of the image.
    """

    def distance(index: int) -> float:
        moved = result.calibrated_prompts[index]
        if moved is None:
            return 0.0
        return math.dist(result.prompts[index].point_coords[0], moved.point_coords[0])

    farthest = sorted(range(len(result.calibrated_prompts)), key=distance)[-SHOWN_CLICKS:]
    side = 2 * SHOWN_MARGIN * ENLARGEMENT
    row = Image.new("RGB", (side * len(farthest), side))
    for place, index in enumerate(farthest):
        left, top = (
            min(max(0, round(at) * ENLARGEMENT - side // 2), length - side)
            for at, length in zip(result.prompts[index].point_coords[0], picture.size, strict=True)
        )
        row.paste(picture.crop((left, top, left + side, top + side)), (place * side, 0))
    return row


def _enlarged(mask: Mask) -> Mask:
    array = np.kron(mask.array, np.ones((ENLARGEMENT, ENLARGEMENT), np.uint8))
    x0, y0, x1, y1 = mask.box
    return Mask(
        size=(array.shape[0], array.shape[1]),
        counts=coco_mask.encode(np.asfortranarray(array.astype(np.uint8)))["counts"].decode(),
        score=mask.score,
        box=(x0 * ENLARGEMENT, y0 * ENLARGEMENT, x1 * ENLARGEMENT, y1 * ENLARGEMENT),
        area=mask.area * ENLARGEMENT**2,
    )


def write_report(
    out: Path, image: NDArray[np.uint8], result: SegmentResult, report: dict[str, Any]
) -> None:
    """Write overlay.png, moves.png, masks.json, report.json and report.html, each atomically.

    Args:
        out: the folder.
        image: (H, W, 3) uint8, the held-out part.
        result: masks and clicks in that frame.
        report: the figures.
    """
    picture, moves = io.BytesIO(), io.BytesIO()
    overlay = enlarged_overlay(image, result)
    overlay.save(picture, "PNG")
    four_moves(overlay, result).save(moves, "PNG")
    write_atomic(out / "moves.png", moves.getvalue())
    size = list(result.original_size)
    masks = {"original_size": size, "annotations": coco_annotations(result)}
    write_atomic(out / "overlay.png", picture.getvalue())
    write_atomic(out / "masks.json", (json.dumps(masks, indent=1) + "\n").encode())
    write_atomic(out / "report.json", (json.dumps(report, indent=2) + "\n").encode())
    page = render_page(
        "demo",
        title="CPC-SAM demonstration",
        report=report,
        conclusion=conclusion(report),
        compared=COMPARED,
        picture=data_uri(picture.getvalue()),
        shown=_shown,
    )
    write_atomic(out / "report.html", page.encode())


def report_of(report: dict[str, Any]) -> RunReport:
    """Make the report that the README quotes; benchmarks/reports keeps a copy."""
    rows = [
        [text, *(Cell(scores[name], decimals=3) for scores in (report, report["careless"]))]
        for name, text in COMPARED.items()
    ]
    note = f"Mean Dice of {report['nuclei']} nuclei of the held-out half, by one click each."
    heads = ["", "accurate clicks", "careless clicks"]
    tables = [Table("", heads, rows)]
    if len(report["seeds"]["run"]["accurate"]) > 1:
        tables.append(_seeds_table(report["seeds"]))
    return RunReport("demo", "Demonstration", note, tables)


def _seeds_table(seeds: Mapping[str, Mapping[str, Sequence[float]]]) -> Table:
    """Compare fine-tunings with and without CaPL over seeds, in PyTorch."""
    kinds = ("accurate", "careless")
    rows: list[list[object]] = [
        [label, *(_over_seeds(seeds[name][kind]) for kind in kinds)]
        for name, label in (("run", "with CaPL"), ("without_capl", "without CaPL"))
    ]
    differences = [
        [
            100 * (ours - theirs)
            for ours, theirs in zip(seeds["run"][kind], seeds["without_capl"][kind], strict=True)
        ]
        for kind in kinds
    ]
    rows.append(
        ["difference in points", *(interval_of(paired_interval(each)) for each in differences)]
    )
    count = len(seeds["run"]["accurate"])
    heads = ["", "accurate clicks", "careless clicks"]
    note = f"Mean ± standard deviation of {count} seeds; the difference with its 95 % interval."
    return Table("Fine-tuned with and without CaPL for as many steps", heads, rows, note)


def _over_seeds(dice: Sequence[float]) -> Cell:
    return Cell(float(np.mean(dice)), float(np.std(dice, ddof=1)), len(dice), 3)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(item)}" for name, item in value.items())
    return str(value)
