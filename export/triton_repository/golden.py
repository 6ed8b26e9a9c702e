"""Golden answers of exported graphs, computed by ONNX Runtime when a version is published."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cpcsam.artifacts.golden import GoldenCase
from cpcsam.artifacts.manifest import read_manifest
from cpcsam.backends.onnx_backend import OnnxBackend
from cpcsam.contract import PointLabel
from cpcsam.transforms import resize_coords, to_frame
from export.real_images import NUCLEI

__all__ = ["golden_cases", "golden_tolerance"]

TOLERANCES: Final = {"fp16": 2e-2, "int8": 5e-2}
"""By precision, relative to the largest value: those of the parity grid, as other hardware may
round otherwise; float32 has room for that of a GPU."""
FP32_TOLERANCE: Final = 1e-3


def golden_cases(onnx: Path) -> list[GoldenCase]:
    """Compute the answers of graphs to clicks into an image, and to a box in a part of it.

    Args:
        onnx: an artifact of kind `onnx`.

    Raises:
        ArtifactError: it is none, or a graph cannot be opened.
        ExportError: a graph fails.
    """
    backend = OnnxBackend(onnx)
    with Image.open(NUCLEI) as file:
        image = file.convert("RGB")
    width, height = image.size
    part = image.crop((width // 4, height // 3, width, height))
    quarters = np.array([(x, y) for y in (0.3, 0.7) for x in (0.3, 0.7)], np.float32)
    clicks = (quarters * np.array(image.size, np.float32))[:, None]
    foreground = np.full((len(clicks), 1), PointLabel.FOREGROUND, np.int32)
    corners = np.array([[(0.2, 0.2), (0.6, 0.7)]], np.float32) * np.array(part.size, np.float32)
    box = np.array([[PointLabel.BOX_TOP_LEFT, PointLabel.BOX_BOTTOM_RIGHT]], np.int32)
    return [_case(backend, image, clicks, foreground), _case(backend, part, corners, box)]


def golden_tolerance(onnx: Path) -> float:
    """Return the tolerance that suits the precision of graphs."""
    precision = str(read_manifest(onnx, "onnx", verify=False).config.get("precision"))
    return TOLERANCES.get(precision, FP32_TOLERANCE)


def _case(
    backend: OnnxBackend,
    image: Image.Image,
    point_coords: NDArray[np.float32],
    point_labels: NDArray[np.int32],
) -> GoldenCase:
    content = io.BytesIO()
    image.save(content, "PNG")
    pixels = np.asarray(image)
    frame, input_size = to_frame(pixels, backend.image_size)
    embeddings = backend.encode(frame[None], np.array([input_size], np.int32))
    size = image.height, image.width
    scaled = resize_coords(point_coords, size, backend.image_size)
    masks, scores = backend.decode(embeddings, scaled[None], point_labels[None])
    refined, refined_scores = backend.decode(
        embeddings, scaled[None], point_labels[None], masks[:, :, :1]
    )
    return GoldenCase(
        image_bytes=np.frombuffer(content.getvalue(), np.uint8),
        point_coords=point_coords,
        point_labels=point_labels,
        low_res_masks=masks[0, :, 0],
        scores=scores[0, :, 0],
        refined_masks=refined[0, :, 0],
        refined_scores=refined_scores[0, :, 0],
    )
