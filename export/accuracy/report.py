"""Self-contained HTML page of a comparison: figures, and the worst masks as pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cpcsam.drawing import contour
from export.accuracy.mask_fidelity import Fidelity, MaskPair
from reporting.html import data_uri, render_page

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
    "scores_max": "predicted IoUs, likewise",
}


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
    return render_page(
        "parity",
        title=title,
        verdict=verdict,
        tolerance=tolerance,
        grid=grid,
        engines=[
            {
                "name": measured.engine,
                "summary": _labelled(measured.summary()),
                "masks": [
                    {"caption": _caption(pair), "picture": data_uri(_png(pair))}
                    for pair in measured.worst
                ],
            }
            for measured in fidelity
        ],
        shown=_number,
    )


def _labelled(summary: Mapping[str, float]) -> dict[str, float]:
    return {LABELS[name]: summary[name] for name in LABELS if name in summary}


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return f"{value:.5f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"


def _caption(pair: MaskPair) -> str:
    row = pair.row
    return (
        f"IoU {row.iou:.4f}, contours {row.boundary_mean:.3f} px apart, {row.area} px: "
        f"{row.scene}, {row.prompt}, {row.selection}"
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
