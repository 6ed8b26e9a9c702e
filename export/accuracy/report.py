"""Self-contained HTML page of a comparison: figures, and the worst masks as pictures."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cpcsam.client.overlay import contour
from export.accuracy.mask_fidelity import Fidelity, MaskPair

__all__ = ["comparison_page"]

Pixel = TypeVar("Pixel", np.uint8, np.bool_)

PICTURE_SIDE: Final = 256
EXPECTED_COLOR: Final = (40, 220, 90)
ACTUAL_COLOR: Final = (255, 160, 0)
DIFFERENCE_COLOR: Final = (255, 0, 60)
LABELS: Final = {
    "masks": "masks compared",
    "masks_left_out": "masks left out: the model itself draws them indistinctly",
    "iou_mean": "mask IoU, mean",
    "iou_min": "mask IoU, minimum",
    "iou_mean_of_all": "mask IoU, mean with those left out",
    "boundary_mean": "distance of the contours, mean (pixels)",
    "boundary_mean_max": "distance of the contours, mean of the worst mask (pixels)",
    "boundary_max": "distance of the contours, largest of a pixel (pixels)",
    "logits_max": "logits, largest difference relative to the largest value",
    "embeddings_max": "image embeddings, likewise",
}
STYLE: Final = """
 body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem }
 table { border-collapse: collapse } th { text-align: left; font-weight: normal }
 th, td { padding: .15rem 1.5rem .15rem 0 } td { font-variant-numeric: tabular-nums }
 .masks { display: flex; flex-wrap: wrap; gap: 1rem } figure { margin: 0; width: 16rem }
 figcaption { font-size: .85rem } img { width: 100%; image-rendering: pixelated }
"""


def comparison_page(
    title: str,
    verdict: str,
    tolerance: Mapping[str, float],
    grid: Mapping[str, Mapping[str, float]],
    fidelity: Sequence[Fidelity],
) -> str:
    """Render the page.

    Args:
        title: heading of the page.
        verdict: passed, or the failed measure.
        tolerance: by name.
        grid: largest relative difference by engine and `graph/output`.
        fidelity: mask fidelity on real images of each engine.

    Returns:
        HTML without external resources.
    """
    parts = [f"<h1>{html.escape(title)}</h1><p><strong>{html.escape(verdict)}</strong></p>"]
    parts.append("<h2>Tolerance</h2>" + _table(tolerance))
    for measured in fidelity:
        parts.append(f"<h2>Real images: {html.escape(measured.engine)}</h2>")
        summary = measured.summary()
        parts.append(_table({LABELS[name]: summary[name] for name in LABELS if name in summary}))
        parts.append(_masks(measured.worst))
    for engine, worst in grid.items():
        parts.append(f"<h2>Random tensors: {html.escape(engine)}</h2>")
        parts.append("<p>Largest difference relative to the largest value.</p>" + _table(worst))
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}'
        f"</title>\n<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</html>\n"
    )


def _table(figures: Mapping[str, float]) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{_number(value)}</td></tr>"
        for name, value in figures.items()
    )
    return f"<table>{rows}</table>"


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return f"{value:.5f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"


def _masks(pairs: Sequence[MaskPair]) -> str:
    if not pairs:
        return "<p>No mask to show.</p>"
    figures = "".join(_figure(pair) for pair in pairs)
    return (
        "<p>The worst masks: green the model's contour, orange the engine's, red where "
        f"they differ.</p><div class=masks>{figures}</div>"
    )


def _figure(pair: MaskPair) -> str:
    row = pair.row
    caption = (
        f"IoU {row.iou:.4f}, contours {row.boundary_mean:.3f} px apart, {row.area} px: "
        f"{row.scene}, {row.prompt}, {row.selection}"
    )
    encoded = base64.b64encode(_png(pair)).decode()
    return (
        f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{encoded}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _png(pair: MaskPair) -> bytes:
    """Draw a pair, enlarged by a whole factor so that every pixel of a mask stays a square."""
    factor = max(1, PICTURE_SIDE // max(pair.expected.shape))
    canvas = _enlarged(pair.image, factor)
    expected, actual = _enlarged(pair.expected, factor), _enlarged(pair.actual, factor)
    canvas[contour(expected)] = EXPECTED_COLOR
    canvas[contour(actual)] = ACTUAL_COLOR
    canvas[expected != actual] = DIFFERENCE_COLOR
    file = io.BytesIO()
    Image.fromarray(canvas).save(file, "PNG")
    return file.getvalue()


def _enlarged(array: NDArray[Pixel], factor: int) -> NDArray[Pixel]:
    return array.repeat(factor, axis=0).repeat(factor, axis=1)
