"""Stage `decoder`: prompt encoder and mask decoder with CaPL, eager and as a CUDA graph.

The modules are those that are exported: calibration fused, in float32 and in mixed float16. A CUDA
graph replays all kernels by one launch; its masks are compared with those of the eager call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.gpu.attempts import GIB, attempt
from benchmarks.gpu.models import FULL, QUICK, random_model
from benchmarks.gpu.stage import StageContext
from cpcsam.contract import EMBED_DIM, grid_size
from cpcsam.model.fusion import fuse
from cpcsam.model.sam import CpcSam
from export.graphs.fp16 import to_fp16
from export.graphs.modules import draw_prompts, relative_difference
from export.graphs.traceable import make_traceable

__all__ = ["measure"]

SHAPES: Final = ((1, 1), (1, 16), (4, 16), (1, 64))
QUICK_SHAPES: Final = ((1, 1), (2, 2))
POINTS: Final = 2
WARM_UP: Final = 3

Record = dict[str, Any]
Run = Callable[[], tuple[Tensor, Tensor]]


def measure(context: StageContext) -> Iterator[Record]:
    """Measure all shapes eagerly, then all as CUDA graphs: a failed capture may end the process."""
    # The image encoder takes no part: a small one leaves the peak of memory to the decoder.
    size = replace(QUICK, image_size=(QUICK if context.quick else FULL).image_size)
    traceable = make_traceable(fuse(random_model(size, capl=True)))
    models: dict[str, CpcSam] = {
        "float16": to_fp16(traceable).to(context.device),
        "float32": traceable.to(context.device),
    }
    shapes = QUICK_SHAPES if context.quick else SHAPES
    for way in ("eager", "graph"):
        for dtype, model in models.items():
            for images, prompts in shapes:
                record = {
                    "case": f"{way} {dtype} {images} x {prompts}",
                    "dtype": dtype,
                    "images": images,
                    "prompts": prompts,
                }
                if way == "graph" and context.device.type != "cuda":
                    yield {**record, "skipped": "CUDA graphs need a GPU"}
                    continue
                run = _decoding(model, images, prompts, context.device)
                figures = _eager if way == "eager" else _graph
                yield attempt(record, partial(figures, context, run))


def _decoding(model: CpcSam, images: int, prompts: int, device: torch.device) -> Run:
    """Return a call that encodes and decodes prompts of embedded images."""
    generator = torch.Generator().manual_seed(0)
    grid = grid_size(model.image_size)
    embeddings = torch.randn(images, EMBED_DIM, grid, grid, generator=generator).to(device)
    drawn = draw_prompts(model.image_size, images, prompts, POINTS, generator)
    coords, labels = (drawn[name].to(device) for name in ("point_coords", "point_labels"))

    def run() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            encoded = model.encode_prompts(embeddings, coords, labels)
            return model.decode_masks(embeddings, *encoded)

    return run


def _eager(context: StageContext, run: Run) -> Record:
    peak = context.peak_memory(run)
    return {
        "decode_ms": 1000 * context.seconds(run),
        "peak_gib": None if peak is None else peak / GIB,
    }


def _graph(context: StageContext, run: Run) -> Record:
    expected = run()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    # Libraries allocate workspaces in their first calls, which a capture must not contain.
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        actual = run()
    graph.replay()
    context.synchronize()
    return {
        "decode_ms": 1000 * context.seconds(graph.replay),
        "mask_difference": relative_difference(actual[0], expected[0]),
    }
