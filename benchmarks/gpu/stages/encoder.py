"""Stage `encoder`: forms of vit_b's attention at 1024 pixels, batches, memory, compiled forms.

Weights are random. `tflop` counts the products of the official form on one image, for every form,
so that rates compare the time of equal work. `deviation` is the distance of the embedding from that
of the official form in float32, relative to its norm; `max_deviation` the largest difference,
relative to the largest value. `official` and `exported` index positions by a tensor on the CPU, for
which each block waits in eager calls; the exported graph has them as constants.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.attempts import GIB, attempt, reason_of
from benchmarks.gpu.attention_forms import FORMS, use_form
from benchmarks.gpu.models import FULL, QUICK, random_model
from benchmarks.gpu.stage import StageContext
from cpcsam.model.fusion import fuse
from cpcsam.model.sam import CpcSam
from export.graphs.fp16 import to_fp16
from export.graphs.traceable import make_traceable

__all__ = ["deviation", "encoder_in", "measure"]

DTYPES: Final = {"bfloat16": torch.bfloat16, "float16": torch.float16}
PLAN: Final = (
    ("bfloat16", 8),
    ("bfloat16", 1),
    ("bfloat16", 16),
    ("float16", 1),
    ("float16", 8),
    ("bfloat16", 4),
    ("bfloat16", 2),
    ("float16", 16),
    ("float16", 4),
    ("float16", 2),
)
"""The most informative first, in case time runs out."""
QUICK_PLAN: Final = (("bfloat16", 1), ("float16", 1))
PEER: Final = "sdpa_bias"
PEER_NOTE: Final = "as segment-anything-fast does: bias as a tensor, bfloat16, compiled"
KERNELS: Final = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
EAGER_SHARE: Final = 0.35
"""Of the stage's time; what is left belongs to the compiler."""
COMPILE_S: Final = {"reduce-overhead": 40.0, "max-autotune": 75.0}
"""Modes of torch.compile, and the seconds that one may take; both replay CUDA graphs."""

Record = dict[str, Any]


def encoder_in(model: CpcSam, form: str, dtype: torch.dtype) -> nn.Module:
    """Return a copy of a model's encoder in a form of attention and a precision.

    Args:
        model: float32.
        form: a key of `FORMS`. `exported` is the module that is exported in 16 bits, with some
            layers in float32; all other copies have every weight in `dtype`.
        dtype: of the weights and of the normalised images (B, 3, S, S) that it takes.
    """
    encoder: nn.Module
    if form == "exported" and dtype != torch.float32:
        encoder = to_fp16(make_traceable(fuse(model)), dtype).sam.image_encoder
    else:
        encoder = copy.deepcopy(use_form(model.sam.image_encoder, form)).to(dtype)
    return encoder


@dataclass
class _Bench:
    """What all measurements of the stage share.

    Attributes:
        context: of the stage.
        model: float32, on the CPU.
        images: normalised, one batch of the largest size.
        reference: embedding of the first image by the official form in float32.
        tflop: of one image.
        copies: encoders on the CPU, by form and dtype; on the GPU there is one at a time, so that
            the peak of memory is its own.
        deviations: by form and dtype.
        seconds: of one image, by form, dtype and batch.
    """

    context: StageContext
    model: CpcSam
    images: Tensor
    reference: Tensor
    tflop: float
    copies: dict[tuple[str, str], nn.Module] = field(default_factory=dict)
    deviations: dict[tuple[str, str], Record] = field(default_factory=dict)
    seconds: dict[tuple[str, str, int], float] = field(default_factory=dict)

    def encoder(self, form: str, dtype: str) -> nn.Module:
        """Return an encoder on the device."""
        if (form, dtype) not in self.copies:
            self.copies[form, dtype] = encoder_in(self.model, form, DTYPES[dtype])
        return copy.deepcopy(self.copies[form, dtype]).to(self.context.device)

    @torch.no_grad()
    def figures(self, encoder: nn.Module, form: str, dtype: str, batch: int) -> Record:
        """Time an encoder, and compare its embedding unless that was done."""
        images = self.images[:batch].to(DTYPES[dtype])

        def run() -> Tensor:
            with torch.no_grad():
                output: Tensor = encoder(images)
            return output

        seconds = self.context.seconds(run) / batch
        peak = self.context.peak_memory(run)
        if (form, dtype) not in self.deviations:
            self.deviations[form, dtype] = deviation(run()[:1], self.reference)
        self.seconds[form, dtype, batch] = seconds
        return {
            "image_ms": 1000 * seconds,
            "images_per_s": 1 / seconds,
            "peak_gib": None if peak is None else peak / GIB,
            "tflop": self.tflop,
            **self.deviations[form, dtype],
        }


def deviation(actual: Tensor, expected: Tensor) -> Record:
    """Compare embeddings in float32: by norm, and by the largest difference."""
    difference = actual.float() - expected
    return {
        "deviation": float(difference.norm() / expected.norm()),
        "max_deviation": float(difference.abs().max() / expected.abs().max()),
    }


@torch.no_grad()
def _bench(context: StageContext) -> _Bench:
    size = QUICK if context.quick else FULL
    model = random_model(size)
    batch = max(batch for _, batch in (QUICK_PLAN if context.quick else PLAN))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, size.image_size, size.image_size, generator=generator)
    images = images.to(context.device)
    # A reference whose products are rounded to TF32 would not be float32.
    torch.backends.cudnn.allow_tf32 = False
    official = encoder_in(model, "official", torch.float32).to(context.device)
    with FlopCounterMode(display=False) as counter:
        reference = official(images[:1])
    torch.backends.cudnn.allow_tf32 = True
    return _Bench(context, model, images, reference, counter.get_total_flops() / 1e12)


def measure(context: StageContext) -> Iterator[Record]:
    """Measure the forms eagerly, then the kernels of their attention, then compiled forms."""
    begin = context.left_s()
    bench = _bench(context)
    size = QUICK if context.quick else FULL
    yield {
        "case": "model",
        "model": size.name,
        "image_size": size.image_size,
        "weights": "random",
        "tflop": bench.tflop,
    }
    for dtype, batch in QUICK_PLAN if context.quick else PLAN:
        if context.left_s() < (1 - EAGER_SHARE) * begin:
            yield {"case": f"eager {dtype} x {batch}", "skipped": "time is left for the compiler"}
            continue
        for form in FORMS:
            yield _eager(bench, form, dtype, batch)
    yield from _kernels(bench)
    yield from _compiled(bench)


def _eager(bench: _Bench, form: str, dtype: str, batch: int) -> Record:
    def figures() -> Record:
        encoder = bench.encoder(form, dtype)
        return bench.figures(encoder, form, dtype, batch)

    case = f"{form} {dtype} x {batch}"
    return attempt({"case": case, "form": form, "dtype": dtype, "batch": batch}, figures)


def _kernels(bench: _Bench) -> Iterator[Record]:
    """Time one global attention by each kernel that scaled_dot_product_attention may choose."""
    context = bench.context
    for form in ("sdpa_bias", "folded", "folded_padded"):
        encoder = bench.encoder(form, "bfloat16")
        attention, x = _global_attention(encoder)
        for name, backend in KERNELS.items():
            record = {"case": f"global attention {form} {name}", "form": form, "dtype": "bfloat16"}
            yield attempt(record, _by_kernel(context, attention, x, backend))


def _global_attention(encoder: nn.Module) -> tuple[nn.Module, Tensor]:
    """Return the last block's attention, which is global, and one image's tokens."""
    assert isinstance(encoder, ImageEncoderViT)
    weight = encoder.pos_embed
    assert weight is not None
    return encoder.blocks[-1].attn, torch.randn_like(weight)


def _by_kernel(
    context: StageContext, attention: nn.Module, x: Tensor, backend: SDPBackend
) -> Callable[[], Record]:
    def run() -> Tensor:
        with torch.no_grad(), sdpa_kernel(backend):
            output: Tensor = attention(x)
        return output

    return lambda: {"batch": 1, "attention_ms": 1000 * context.seconds(run)}


def _compiled(bench: _Bench) -> Iterator[Record]:
    """Compile the peer's form and ours, for as long as there is time."""
    context, dtype, costs = bench.context, "bfloat16", dict(COMPILE_S)
    for mode, form, batch in _compile_plan(bench, dtype):
        case = f"{mode} {form} {dtype} x {batch}"
        record = {"case": case, "form": form, "dtype": dtype, "batch": batch}
        if form == PEER:
            record["note"] = PEER_NOTE
        if not context.quick and context.left_s() < costs[mode]:
            yield {**record, "skipped": f"{context.left_s():.0f} s left to compile"}
            continue
        begin = time.monotonic()
        yield _compile(bench, record, mode, form, dtype, batch)
        costs[mode] = max(costs[mode], 1.2 * (time.monotonic() - begin))


def _compile_plan(bench: _Bench, dtype: str) -> list[tuple[str, str, int]]:
    """Return mode, form and batch of what to compile, the most informative first."""
    if bench.context.quick:
        return [("reduce-overhead", PEER, 1)]
    many, single = 8, 1
    ours = [form for form in FORMS if form not in ("official", PEER)]
    timed = [form for form in ours if (form, dtype, many) in bench.seconds]
    best = min(timed, key=lambda form: bench.seconds[form, dtype, many], default="folded")
    quickly, thoroughly = COMPILE_S
    return [
        (quickly, PEER, many),
        (quickly, best, many),
        (quickly, "flex", many),
        (thoroughly, best, many),
        (thoroughly, PEER, many),
        (quickly, best, single),
        (quickly, PEER, single),
    ]


def _compile(bench: _Bench, record: Record, mode: str, form: str, dtype: str, batch: int) -> Record:
    # Without code generation, which takes a small CPU more than a minute.
    options = {"backend": "aot_eager"} if bench.context.quick else {"mode": mode}
    # One form after the other, so that none counts as a recompilation of the one before.
    torch.compiler.reset()

    def figures() -> Record:
        encoder = bench.encoder(form, dtype)
        encoder.compile(**options, dynamic=False)
        begin = time.monotonic()
        with torch.no_grad():
            encoder(bench.images[:batch].to(DTYPES[dtype]))
        bench.context.synchronize()
        seconds = time.monotonic() - begin
        figures = bench.figures(encoder, f"{mode} {form}", dtype, batch)
        # A CUDA graph keeps a pool of its own, which the allocator's peak does not show.
        return {"compile_s": seconds, **figures, "peak_gib": None}

    try:
        return attempt(record, figures)
    # The compiler's errors have no common base: no compiler, no Triton, a graph it cannot take.
    except Exception as error:
        return {**record, "skipped": reason_of(error)}
