"""Timers, the softmax without float32, the runner on a device, and the files that are decoded."""

from __future__ import annotations

import io
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.gpu.images import real_images
from benchmarks.gpu.stage import StageContext
from benchmarks.gpu.stages.accuracy import (
    FORMS,
    DeviceRunner,
    Form,
    StepwiseSoftmax,
    fidelity_record,
)
from benchmarks.gpu.stages.jpeg import jpeg_of
from cpcsam.contract import IMAGE_ENCODER
from cpcsam.model.fusion import fuse
from export.accuracy.mask_fidelity import Case
from export.accuracy.runners import TorchRunner
from export.graphs.modules import draw_images, draw_prompts, relative_difference, run_graphs
from export.graphs.traceable import make_traceable
from tests.support.model_factory import noisy_cpcsam

CPU = torch.device("cpu")


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    return StageContext(CPU, True, time.monotonic() + 60, tmp_path)


def test_context_times_the_median_call_and_warms_up(
    context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, naps = [0.0], iter([0.2, 0.0, 0.03, 0.2])
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def call() -> None:
        now[0] += next(naps)

    assert context.seconds(call, repeats=3) == pytest.approx(0.03)


def test_context_past_its_deadline_has_nothing_left(tmp_path: Path) -> None:
    assert StageContext(CPU, True, time.monotonic() - 1, tmp_path).left_s() == 0


def test_context_on_the_cpu_counts_no_memory(context: StageContext) -> None:
    assert context.peak_memory(lambda: pytest.fail("called")) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_stepwise_softmax_rounds_every_step(dtype: torch.dtype) -> None:
    logits = 4 * torch.randn(8, 300, generator=torch.Generator().manual_seed(0))
    with StepwiseSoftmax(dtype):
        rounded = torch.softmax(logits, dim=-1)
    exact = torch.softmax(logits, dim=-1)
    assert rounded.dtype == torch.float32 and (rounded == rounded.to(dtype).float()).all()
    eps = torch.finfo(dtype).eps
    assert eps / 10 < relative_difference(rounded, exact) < 4 * eps


def test_device_runner_has_the_outputs_of_the_reference() -> None:
    model = make_traceable(fuse(noisy_cpcsam()))
    images = draw_images(model.image_size, 2, torch.Generator().manual_seed(0))
    [expected] = TorchRunner(model)(IMAGE_ENCODER, images)
    [actual] = DeviceRunner("a", model, CPU)(IMAGE_ENCODER, images)
    assert torch.equal(actual, expected)


@cache
def traced() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Random tensors, and what the traced model makes of them."""
    generator = torch.Generator().manual_seed(0)
    given = draw_images(256, 1, generator) | draw_prompts(256, 1, 2, 3, generator)
    return given, run_graphs(make_traceable(fuse(noisy_cpcsam())), given)


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_form_is_close_to_the_traced_model(form: Form) -> None:
    given, expected = traced()
    with form.around():
        actual = run_graphs(form.of(make_traceable(fuse(noisy_cpcsam()))), given)
    tolerance = 0.1 if form.dtype else 1e-5
    for name, output in actual.items():
        assert output.dtype == torch.float32
        assert relative_difference(output, expected[name]) <= tolerance, name
    assert torch.get_float32_matmul_precision() == "highest"


def test_fidelity_without_masks_fails_the_gate_by_name() -> None:
    cases: list[Case] = []
    record = fidelity_record(
        cases, DeviceRunner("a", make_traceable(fuse(noisy_cpcsam())), CPU), 64
    )
    assert record["case"] == "a" and "no mask" in record["gate"]


def test_jpeg_has_the_size_and_halved_colour_planes() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(jpeg_of(image, (64, 128)))) as opened:
        assert opened.format == "JPEG" and opened.size == (128, 64)
        sampling = [plane[1:3] for plane in opened.layer]  # type: ignore[attr-defined]
    assert sampling == [(2, 2), (1, 1), (1, 1)]


def test_images_of_a_quick_run_are_one(context: StageContext) -> None:
    assert [file.name for file in real_images(context)] == ["nuclei.png"]


def test_images_are_those_of_the_folder_the_packages_and_bbbc038(tmp_path: Path) -> None:
    for number in range(100):
        file = tmp_path / f"nuclei/stage1_train/{number:03}/images/{number:03}.png"
        file.parent.mkdir(parents=True)
        file.touch()
    (tmp_path / "own").mkdir()
    (tmp_path / "own/a.JPG").touch()
    (tmp_path / "own/notes.txt").touch()
    context = StageContext(CPU, False, 0, tmp_path, tmp_path / "own", tmp_path / "nuclei")
    names = [file.name for file in real_images(context)]
    assert names[0] == "a.JPG" and "nuclei.png" in names and "notes.txt" not in names
    assert len([name for name in names if name[:3].isdigit()]) == 24
