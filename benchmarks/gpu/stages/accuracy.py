"""Accuracy gate on the device's own arithmetic: masks in reduced precision against float32.

The modules are those that `python -m export.to_onnx --precision fp16` traces, with the weights of
the compact base, and the measure is the one that judges exported engines. The reference computes in
float32 on the device; the CPU's float32 is compared with it on a few images. torch's softmax sums
in float32 in every dtype; `stepwise` rounds each of its steps to the reduced dtype instead, as the
worst that an engine may do without float32 softmax. `folded` and `bias` are faster forms of the
encoder's attention (`benchmarks.gpu.attention_forms`), which the same gate must admit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from benchmarks.gpu.attention_forms import use_form
from benchmarks.gpu.images import real_images
from benchmarks.gpu.stage import StageContext
from cpcsam.contract import GraphSpec
from cpcsam.errors import ExportError
from cpcsam.images.options import Intensity
from cpcsam.model.base_checkpoint import base_digest, load_base
from cpcsam.model.fusion import fuse
from cpcsam.model.sam import CpcSam
from export.accuracy.comparison import require_fidelity
from export.accuracy.mask_fidelity import Case, find_cases
from export.accuracy.mask_fidelity import measure as measure_fidelity
from export.accuracy.runners import GraphRunner
from export.graphs.fp16 import to_fp16
from export.graphs.modules import GraphModule
from export.graphs.traceable import TraceableCpcSam, make_traceable
from export.real_images import read_scenes

__all__ = ["FORMS", "DeviceRunner", "Form", "StepwiseSoftmax", "fidelity_record", "measure"]

BASE: Final = Path(__file__).resolve().parents[3] / "weights/vit_t"
CPU_IMAGES: Final = 3


class DeviceRunner:
    """A model on a device as a runner of graphs; see `export.accuracy.runners.GraphRunner`.

    Attributes:
        name: of the form.
        calibrates: whether the model calibrates prompts.
    """

    def __init__(
        self,
        name: str,
        model: CpcSam,
        device: torch.device,
        around: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Move a model to the device.

        Args:
            name: of the form.
            model: changed in place.
            device: to compute on.
            around: every graph runs in a context of its making.
        """
        self.name = name
        self.calibrates = model.calibrates
        self._model, self._device, self._around = model.to(device), device, around

    @torch.no_grad()
    def __call__(self, graph: GraphSpec, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Run a graph on CPU tensors; the outputs are on the CPU too."""
        tensors = [inputs[name].to(self._device) for name in graph.input_names]
        with self._around():
            outputs = GraphModule(self._model, graph)(*tensors)
        return [output.cpu() for output in outputs]


class StepwiseSoftmax(TorchFunctionMode):
    """Replace `torch.softmax` by its steps, each rounded to a dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Intercept a function of torch."""
        if func is not torch.softmax:
            return func(*args, **(kwargs or {}))
        logits, dim = args[0].to(self.dtype), (kwargs or {})["dim"]
        shifted = (logits - logits.amax(dim, keepdim=True)).exp()
        return (shifted / shifted.sum(dim, keepdim=True)).to(args[0].dtype)


@contextmanager
def _tf32() -> Iterator[None]:
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False


@dataclass(frozen=True)
class Form:
    """A form of the model.

    Attributes:
        name: for the record.
        dtype: None for float32.
        around: context in which its graphs run.
        attention: of the encoder, a key of `benchmarks.gpu.attention_forms.FORMS`; None leaves it
            as it is traced.
    """

    name: str
    dtype: torch.dtype | None = None
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    attention: str | None = None

    def of(self, model: TraceableCpcSam) -> TraceableCpcSam:
        """Return a copy of a model in this form."""
        own = copy.deepcopy(model)
        if self.attention:
            own.sam.image_encoder = use_form(own.sam.image_encoder, self.attention)
        return to_fp16(own, self.dtype) if self.dtype else own


FORMS: Final = (
    Form("tf32", around=_tf32),
    Form("float16", torch.float16),
    Form("bfloat16", torch.bfloat16),
    Form("float16, folded", torch.float16, attention="folded"),
    Form("bfloat16, folded", torch.bfloat16, attention="folded"),
    Form("bfloat16, bias", torch.bfloat16, attention="sdpa_bias"),
    Form("float16, stepwise softmax", torch.float16, lambda: StepwiseSoftmax(torch.float16)),
    Form("bfloat16, stepwise softmax", torch.bfloat16, lambda: StepwiseSoftmax(torch.bfloat16)),
)


def measure(context: StageContext) -> Iterator[dict[str, Any]]:
    """Yield mask IoU and boundary distances of every form."""
    # torch convolves in TF32 by default.
    torch.backends.cudnn.allow_tf32 = False
    model = make_traceable(fuse(load_base(BASE)))
    scenes = read_scenes(real_images(context), model.image_size, Intensity())
    reference = DeviceRunner("float32", copy.deepcopy(model), context.device)
    cases = find_cases(reference, scenes)
    yield {
        "case": "reference, float32",
        "base": base_digest(BASE)[:12],
        "images": len(scenes),
        "images_with_stable_masks": len(cases),
        "side": model.image_size,
    }
    on_cpu = DeviceRunner("float32 on the CPU", copy.deepcopy(model), torch.device("cpu"))
    yield fidelity_record(cases[:CPU_IMAGES], on_cpu, model.image_size)
    longest = 0.0
    for form in FORMS:
        if form.around is _tf32 and context.device.type != "cuda":
            yield {"case": form.name, "skipped": "no GPU"}
        elif context.quick and form.dtype is torch.float16 and form.name != "float16":
            yield {
                "case": form.name,
                "skipped": "float16 is slow on a CPU, and the run quick",
            }
        elif context.left_s() < longest:
            yield {"case": form.name, "skipped": f"{context.left_s():.0f} s were left"}
        else:
            begin = context.left_s()
            runner = DeviceRunner(form.name, form.of(model), context.device, form.around)
            record = fidelity_record(cases, runner, model.image_size)
            longest = max(longest, begin - context.left_s())
            yield record


def fidelity_record(cases: Sequence[Case], runner: GraphRunner, image_size: int) -> dict[str, Any]:
    """Measure a form's masks against the reference's.

    Args:
        cases: of the reference.
        runner: of the form.
        image_size: side S of the encoder's frame.

    Returns:
        A record: mask IoU, distances of the contours in pixels, and the verdict of the gate that
        judges engines in float16.
    """
    fidelity = measure_fidelity(cases, runner)
    try:
        require_fidelity(fidelity, "fp16", image_size)
        verdict = "passed"
    except ExportError as error:
        verdict = f"failed: {error}"
    return {"case": runner.name, **fidelity.summary(), "gate": verdict}
