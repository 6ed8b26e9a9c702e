"""Report of the demonstration: overlay image, masks, figures and HTML page."""

from __future__ import annotations

import io
import json
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
from reporting.tables import Cell

__all__ = ["COMPARED", "conclusion", "enlarged_overlay", "report_of", "write_report"]

COMPARED: Final = {
    "dice_click": "fine-tuned, with CaPL (served over gRPC)",
    "dice_no_capl": "fine-tuned, CaPL switched off",
    "dice_base": "the base before fine-tuning",
    "dice_threshold": "Otsu's component under the click (no training)",
}
ENLARGEMENT: Final = 3


def conclusion(report: dict[str, Any]) -> str:
    """Describe, for both kinds of clicks, the best of the four methods and its margin."""
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
        masks=tuple(tuple(_enlarged(mask) for mask in masks) for masks in result.masks),
        model_name=result.model_name,
        model_version=result.model_version,
        timings_ms={},
    )
    return draw_overlay(brightened.clip(0, 255).astype(np.uint8), scaled)


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
    """Write overlay.png, masks.json, report.json and report.html, each atomically.

    Args:
        out: the folder.
        image: (H, W, 3) uint8, the held-out part.
        result: masks and clicks in that frame.
        report: the figures.
    """
    picture = io.BytesIO()
    enlarged_overlay(image, result).save(picture, "PNG")
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
    return RunReport("demo", "Demonstration", note, [Table("", heads, rows)])


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(item)}" for name, item in value.items())
    return str(value)
