"""The exported graphs in ONNX Runtime, in process; imports no torch, whose memory would count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.load.workloads import Request
from benchmarks.peers.systems.segmenters import MIN_IOU, MIN_STABILITY, Embeddings, prompt_arrays
from cpcsam.automatic.config import MaskGeneratorConfig
from cpcsam.automatic.mask_generator import AutomaticMaskGenerator
from cpcsam.backends.onnx_backend import OnnxBackend
from cpcsam.contract import PROMPT_BUCKETS
from cpcsam.geometry import Box
from cpcsam.images.reading import decode_image
from cpcsam.transforms import resize_coords, to_frame, upscale_masks

__all__ = ["OnnxSegmenter"]

Bools = NDArray[np.bool_]


class OnnxSegmenter:
    """The exported graphs in ONNX Runtime, on the CPU."""

    def __init__(self, onnx: Path) -> None:
        """Open the graphs.

        Args:
            onnx: artifact of `export.to_onnx`.
        """
        self._backend = OnnxBackend(onnx)
        self._embeddings = Embeddings(self._encode)

    def segment(self, request: Request) -> Sequence[Bools]:
        """Predict masks, at most 16 prompts in a call as through Triton."""
        if request.grid:
            config = MaskGeneratorConfig(
                points_per_side=request.grid,
                pred_iou_thresh=MIN_IOU,
                stability_score_thresh=MIN_STABILITY,
            )
            image = decode_image(request.image)
            whole = Box(0, 0, *request.size)
            found = AutomaticMaskGenerator(self._backend, config).generate(image)
            return [mask.in_region(whole) for mask in found]
        embeddings, input_size = self._embeddings.of(request)
        side = self._backend.image_size
        coords, labels = prompt_arrays(request)
        coords = resize_coords(coords, request.size, side)
        masks: list[Bools] = []
        for start in range(0, len(labels), PROMPT_BUCKETS[-1]):
            part = slice(start, start + PROMPT_BUCKETS[-1])
            logits, _ = self._backend.decode(embeddings, coords[None, part], labels[None, part])
            masks += list(upscale_masks(logits[0, :, 0], input_size, request.size, side) > 0)
        return masks

    def _encode(self, image: bytes) -> tuple[NDArray[np.float32], tuple[int, int]]:
        frame, input_size = to_frame(decode_image(image), self._backend.image_size)
        return self._backend.encode(frame[None], np.array([input_size], np.int32)), input_size
