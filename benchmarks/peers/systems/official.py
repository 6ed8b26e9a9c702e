"""Official SAM in process, as its users run it: SamPredictor and SamAutomaticMaskGenerator."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.modeling import Sam

from benchmarks.peers.load.workloads import Request
from benchmarks.peers.systems.segmenters import MIN_IOU, MIN_STABILITY, Embeddings, prompt_arrays
from cpcsam.model.base_checkpoint import load_base

__all__ = ["OfficialSegmenter", "official_sam"]

Bools = NDArray[np.bool_]


def official_sam(weights: Path) -> Sam:
    """Build segment-anything's own `Sam` of a base's weights, in float32 on the CPU."""
    return load_base(weights).sam


class OfficialSegmenter:
    """SamPredictor and SamAutomaticMaskGenerator of segment-anything."""

    def __init__(self, sam: Sam) -> None:
        """Predict with a model on any device.

        Args:
            sam: in evaluation mode.
        """
        self._predictor = SamPredictor(sam)
        self._sam = sam
        self._embeddings = Embeddings(self._encode)

    @classmethod
    def load(cls, weights: Path) -> OfficialSegmenter:
        """Load a base; see `official_sam`."""
        return cls(official_sam(weights))

    def segment(self, request: Request) -> Sequence[Bools]:
        """Predict masks, all prompts of a request in one call of `predict_torch`."""
        if request.grid:
            generator = SamAutomaticMaskGenerator(
                self._sam,
                points_per_side=request.grid,
                pred_iou_thresh=MIN_IOU,
                stability_score_thresh=MIN_STABILITY,
            )
            found = generator.generate(_pixels(request.image))
            return [mask["segmentation"] for mask in found]
        predictor = self._predictor
        state = self._embeddings.of(request)
        predictor.features, predictor.original_size, predictor.input_size = state
        predictor.is_image_set = True
        coords, labels = prompt_arrays(request)
        transform, device = predictor.transform, predictor.device
        boxed = request.prompts[0].box is not None
        points = torch.from_numpy(transform.apply_coords(coords, request.size)).to(device)
        masks, _, _ = predictor.predict_torch(
            None if boxed else points,
            None if boxed else torch.from_numpy(labels).to(device),
            points.reshape(-1, 4) if boxed else None,
            multimask_output=False,
        )
        return [mask[0] for mask in masks.cpu().numpy()]

    def _encode(self, image: bytes) -> tuple[Any, Any, Any]:
        self._predictor.set_image(_pixels(image))
        return (
            self._predictor.features,
            self._predictor.original_size,
            self._predictor.input_size,
        )


def _pixels(image: bytes) -> NDArray[np.uint8]:
    return np.array(Image.open(io.BytesIO(image)).convert("RGB"))
