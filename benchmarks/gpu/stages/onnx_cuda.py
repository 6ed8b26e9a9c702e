"""Stage `onnx_cuda`: ONNX Runtime's CUDA provider, which serves a GPU without TensorRT.

The compact base is published for the target `cuda`, its masks are compared with torch's in float32,
and the steps that Triton's Python backend would run are opened from the published version and
timed. Then vit_b's image encoder at 1024 pixels is timed alone. All times include the copies from
and to the host, as those of the steps do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu.attempts import attempt
from benchmarks.gpu.images import real_images
from benchmarks.gpu.models import FULL, random_model
from benchmarks.gpu.stage import StageContext
from benchmarks.gpu.stages.accuracy import BASE, DeviceRunner, fidelity_record
from cpcsam.artifacts.manifest import publish, read_manifest
from cpcsam.backends.onnx_backend import OnnxGraphs, require_cuda
from cpcsam.contract import CALIBRATES, EMBED_DIM, IMAGE_ENCODER, grid_size
from cpcsam.entry_points import DECODE, DECODER
from cpcsam.errors import CpcSamError
from cpcsam.images.options import Intensity
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.fusion import FusedCpcSam, fuse
from export.accuracy.mask_fidelity import find_cases
from export.accuracy.runners import OnnxRunner
from export.graphs.attention import FoldedAttention
from export.graphs.fp16 import to_fp16
from export.graphs.precisions import trace_graphs
from export.graphs.traceable import make_traceable
from export.graphs.tracing import onnx_from_torch
from export.real_images import read_scenes
from serving.backend.decoder import open_decoder
from serving.backend.onnx_model import open_graph
from serving.backend.step import Execute, Request, Settings

__all__ = ["measure", "time_steps"]

PRECISIONS: Final = ("fp32", "fp16")
BATCHES, QUICK_BATCHES = (1, 2, 4, 8), (1, 2)
PROMPTS, QUICK_PROMPTS = (1, 4, 16), (2,)
LARGE_S: Final = 15.0
"""Least seconds that exporting and timing the large encoder needs."""

Record = dict[str, Any]
Run = Callable[[], object]


def measure(context: StageContext) -> Iterator[Record]:
    """Publish and measure the base in both precisions, then time the large encoder."""
    reason = _missing(context)
    if reason:
        yield {"case": "CUDA provider", "skipped": reason}
        return
    # torch convolves in TF32 by default.
    torch.backends.cudnn.allow_tf32 = False
    model = fuse(load_base(BASE))
    scenes = read_scenes(real_images(context), model.image_size, Intensity())
    on_device = copy.deepcopy(make_traceable(model))
    cases = find_cases(DeviceRunner("float32", on_device, context.device), scenes)
    with TemporaryDirectory(prefix="cpcsam-") as folder:
        for precision in PRECISIONS:
            onnx, version = _publish(model, precision, Path(folder, precision))
            runner = OnnxRunner(onnx, precision, provider="cuda")
            fidelity = partial(fidelity_record, cases, runner, model.image_size)
            yield attempt({"case": runner.name}, fidelity)
            yield from time_steps(context, version)
        if context.left_s() < LARGE_S:
            yield {"case": FULL.name, "skipped": f"{context.left_s():.0f} s were left"}
        else:
            yield from _time_large_encoder(context, Path(folder))


def _missing(context: StageContext) -> str | None:
    """Return what is missing here for the target, or None."""
    if find_spec("tritonclient") is None:
        return "tritonclient is not installed, which writes Triton's configuration"
    try:
        require_cuda()
    except CpcSamError as error:
        return str(error)
    return None if context.device.type == "cuda" else "no GPU"


def _publish(model: FusedCpcSam, precision: str, folder: Path) -> tuple[Path, Path]:
    """Export a model and publish it for the target `cuda`; return the graphs and the version."""
    # tritonclient is missing in many environments that have torch.
    from export.triton_repository.publishing import build_repository

    config = {
        "model_size": BASE.name,
        "image_size": model.image_size,
        "precision": precision,
        CALIBRATES: model.calibrates,
    }
    with publish(folder / "onnx", "onnx", config=config) as staging:
        trace_graphs(model, staging, precision)
    return folder / "onnx", build_repository(folder / "onnx", folder / "repository", target="cuda")


def time_steps(context: StageContext, version: Path) -> Iterator[Record]:
    """Time the image encoder and the decoder of a published version as Triton would call them.

    Args:
        context: of the stage.
        version: of a repository whose graphs run in Python.
    """
    config = read_manifest(version, verify=False).config
    precision, side = config.get("precision", ""), int(config["image_size"])
    try:
        encode = open_graph(_settings(version, IMAGE_ENCODER.name))
        decode = open_decoder(_settings(version, DECODER.name))
    except CpcSamError as error:
        yield {"case": f"steps, {precision}", "skipped": str(error)}
        return
    rng = np.random.default_rng(0)
    image = Request(
        {
            "image": rng.integers(0, 256, (1, 3, side, side), dtype=np.uint8),
            "input_size": np.full((1, 2), side, np.int32),
        },
        frozenset(IMAGE_ENCODER.output_names),
    )
    for images in QUICK_BATCHES if context.quick else BATCHES:
        record = {"case": f"image encoder, {precision} x {images}", "batch": images}
        run = partial(_run, encode, [image] * images)
        yield attempt(record, partial(_encoder_figures, context, run, images))
    for prompts in QUICK_PROMPTS if context.quick else PROMPTS:
        run = partial(_run, decode, [_decoding(rng, prompts, side)])
        record = {"case": f"decoder, {precision}, {prompts} prompts", "prompts": prompts}
        yield attempt(record, partial(_decoder_figures, context, run))


def _settings(version: Path, name: str) -> Settings:
    """Read what Triton would tell a step."""
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    config = text_format.Parse((version / name / "config.pbtxt").read_text(), ModelConfig())
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    return Settings(name, version / name / version.name, parameters, config.max_batch_size)


def _decoding(rng: np.random.Generator, prompts: int, side: int) -> Request:
    grid = grid_size(side)
    tensors = {
        "image_embeddings": rng.normal(size=(1, EMBED_DIM, grid, grid)).astype(np.float32),
        "input_size": np.full((1, 2), side, np.int32),
        "original_size": np.full((1, 2), side, np.int32),
        "point_coords": rng.uniform(0, side, (1, prompts, 1, 2)).astype(np.float32),
        "point_labels": np.ones((1, prompts, 1), np.int32),
        "mask_selection": np.zeros((1, 1), np.int32),
    }
    return Request(tensors, frozenset(DECODE.output_names))


def _run(execute: Execute, requests: Sequence[Request]) -> None:
    """Call a step with a batch, and raise the error that it answers with, if any."""
    for answer in execute(requests):
        if isinstance(answer, CpcSamError):
            raise answer


def _seconds(context: StageContext, run: Run) -> float:
    """Time a call by the wall clock, as ONNX Runtime has a stream of its own."""
    return replace(context, device=torch.device("cpu")).seconds(run)


def _encoder_figures(context: StageContext, run: Run, images: int) -> Record:
    seconds = _seconds(context, run) / images
    return {"image_ms": 1000 * seconds, "images_per_s": 1 / seconds}


def _decoder_figures(context: StageContext, run: Run) -> Record:
    return {"decode_ms": 1000 * _seconds(context, run)}


def _time_large_encoder(context: StageContext, folder: Path) -> Iterator[Record]:
    """Time vit_b's encoder in float16, with random weights, in batches."""
    model = to_fp16(make_traceable(fuse(random_model(FULL)), FoldedAttention))
    onnx_from_torch(model, IMAGE_ENCODER, folder / f"{IMAGE_ENCODER.name}.onnx", {})
    graphs, side = OnnxGraphs(folder, provider="cuda"), FULL.image_size
    for images in BATCHES:
        feeds: dict[str, NDArray[Any]] = {
            "image": np.ones((images, 3, side, side), np.uint8),
            "input_size": np.full((images, 2), side, np.int32),
        }
        run = partial(graphs.run, IMAGE_ENCODER, feeds)
        record = {"case": f"{FULL.name}, image encoder, fp16 x {images}", "batch": images}
        yield attempt(record, partial(_encoder_figures, context, run, images))
