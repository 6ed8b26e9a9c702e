"""Regions of Label Studio's editor, and the masks that they are."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tests.support.servers.label_studio import LabelStudio

__all__ = ["ask", "drawn", "filled", "masks_of"]

DECODE = """
import json, sys
from label_studio_sdk.converter.brush import decode_rle
print(json.dumps([decode_rle(rle).tolist() for rle in json.load(sys.stdin)]))
"""


def drawn(kind: str, side: int = 128, **value: Any) -> dict[str, Any]:
    """A region that a smart tool has made, as Label Studio's editor tells it."""
    is_positive = value.pop("is_positive", True)
    return {
        "id": "drawn-1",
        "type": kind,
        "from_name": "click",
        "to_name": "image",
        "original_width": side,
        "original_height": side,
        "image_rotation": 0,
        "is_positive": is_positive,
        "value": {kind: ["Nucleus"], **{name: v * 100 / side for name, v in value.items()}},
    }


def ask(studio: LabelStudio, backend: int, task: int, regions: list[Any]) -> list[dict[str, Any]]:
    """Ask for an interactive prediction as the editor does; return its regions."""
    answer = studio.call(
        "POST",
        f"/api/ml/{backend}/interactive-annotating",
        json={"task": task, "context": {"result": regions}},
    )
    assert "errors" not in answer, answer
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result


def masks_of(studio: LabelStudio, regions: list[dict[str, Any]]) -> list[np.ndarray]:
    """Decode brush regions by Label Studio's own decoder."""
    rles = json.dumps([region["value"]["rle"] for region in regions])
    decoded = json.loads(studio.python(DECODE, rles))
    return [
        np.reshape(values, (region["original_height"], region["original_width"], 4))[..., 3] > 0
        for values, region in zip(decoded, regions, strict=True)
    ]


def filled(region: dict[str, Any]) -> np.ndarray:
    """Rasterise a polygon region at four times the resolution; return the middles of pixels."""
    size = region["original_width"] * 4, region["original_height"] * 4
    points = np.array(region["value"]["points"]) / 100 * size - 0.5
    raster = Image.new("1", size)
    ImageDraw.Draw(raster).polygon([(x, y) for x, y in points], fill=1)
    return np.asarray(raster)[2::4, 2::4]
