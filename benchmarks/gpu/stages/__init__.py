"""The plan: all stages in the order in which they run."""

from __future__ import annotations

from typing import Final

from benchmarks.gpu.stage import Stage

__all__ = ["STAGES"]

STAGES: Final = (
    Stage("environment", 30, 1, "versions, clocks, copy bandwidth and rate of matrix products"),
    Stage("driver", 20, 3, "the export's calls of the CUDA driver"),
    Stage("accuracy", 75, 1, "masks in float16 and bfloat16 against float32"),
    Stage("encoder", 145, 2, "image encoder: forms of attention, batches, memory"),
    Stage("decoder", 60, 4, "mask decoder: eager and as a CUDA graph"),
    Stage("onnx_cuda", 40, 4, "the target cuda: masks and steps in ONNX Runtime's CUDA provider"),
    Stage("postprocess", 30, 5, "mask selection, upscaling and packing on the GPU"),
    Stage("jpeg", 30, 7, "JPEG decoding on the GPU against Pillow"),
    Stage("training", 80, 6, "a training step: unrolled against first order"),
    Stage("pretraining", 600, 8, "pretraining of the compact base, in the minutes left"),
)
"""A cap holds for the worst case; pretraining takes whatever the others leave."""
