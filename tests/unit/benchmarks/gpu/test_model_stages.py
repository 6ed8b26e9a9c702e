"""Parts of the stages that measure the model: copies, repeated batches, progress, configuration."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.attempts import attempt
from benchmarks.gpu.attention_forms import FORMS
from benchmarks.gpu.models import QUICK, random_model
from benchmarks.gpu.stage import StageContext
from benchmarks.gpu.stages import onnx_cuda
from benchmarks.gpu.stages.encoder import deviation, encoder_in
from benchmarks.gpu.stages.pretraining import MAX_STEPS, RECORDS, Progress, config_of
from benchmarks.gpu.stages.training import repeated
from cpcsam.gpu import visible_gpus
from export.triton_repository.publishing import build_repository
from tests.support.tiny_models import publish_tiny_graphs
from tests.support.training_factory import tiny_halves


def context_of(out: Path, *, quick: bool = True, bbbc038: Path | None = None) -> StageContext:
    deadline = time.monotonic() + 100
    return StageContext(torch.device("cpu"), quick, deadline, out, bbbc038=bbbc038)


@pytest.mark.parametrize("form", FORMS)
def test_encoder_in_float32_equals_the_model(form: str) -> None:
    model = random_model(QUICK)
    images = torch.randn(1, 3, 256, 256)
    encoder = encoder_in(model, form, torch.float32)
    figures = deviation(encoder(images), model.sam.image_encoder(images))
    assert figures["deviation"] < 1e-5
    assert figures["max_deviation"] < 1e-5


def test_encoder_in_sixteen_bits_leaves_the_model_in_float32() -> None:
    model = random_model(QUICK)
    for form in ("exported", "folded"):
        encoder_in(model, form, torch.bfloat16)
        assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_deviation_is_relative_to_norm_and_to_the_largest_value() -> None:
    expected = torch.tensor([3.0, 4.0])
    figures = deviation(torch.tensor([3.0, 4.5]), expected)
    assert figures == {"deviation": pytest.approx(0.1), "max_deviation": pytest.approx(0.125)}


def test_attempt_of_a_call_that_torch_refuses_keeps_the_case() -> None:
    record = attempt({"case": "sum"}, lambda: {"sum": torch.ones(2) @ torch.ones(3)})
    assert record["case"] == "sum"
    assert record["skipped"].startswith("RuntimeError: inconsistent tensor size")
    assert attempt({"case": "one"}, lambda: {"one": 1}) == {"case": "one", "one": 1}


def test_attempt_without_memory_says_so() -> None:
    def allocate() -> dict[str, int]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    assert attempt({"case": "step"}, allocate)["skipped"] == "out of memory"


def test_repeated_batch_holds_the_image_several_times() -> None:
    batch = tiny_halves(256).training
    three = repeated(batch, 3)
    assert three.image.shape == (3, *batch.image.shape[1:])
    assert three.mask_input is None
    assert torch.equal(three.point_coords[2], batch.point_coords[0])


def test_progress_records_mean_losses_and_speed_by_share_of_the_budget() -> None:
    now = iter([0.0, 2.0, 5.0, 5.0])
    progress = Progress(images=4, clock=lambda: next(now))
    progress.on_train_start()
    for step, loss in enumerate([8.0, 4.0, 3.0], start=1):
        progress.on_step_start((step - 1) / RECORDS / 2)
        progress.on_step_end({"loss": loss}, finished=step == 3, stopped=step == 3)
    first, last = progress.records
    assert (first["case"], first["loss"]) == ("step 2", 6.0)
    assert first["images_per_s"] == pytest.approx(4 / 3)
    assert (last["case"], last["loss"], last["progress"]) == ("step 3", 3.0, 1.0)
    assert progress.first_step_s == 2.0
    assert progress.images_per_s == pytest.approx(8 / 3)


def test_config_of_uses_real_images_only_with_their_lists(tmp_path: Path) -> None:
    without = config_of(context_of(tmp_path, bbbc038=tmp_path), tmp_path, 30.0)
    assert without.data.bbbc038 is None
    for name in ("train.txt", "val.txt"):
        (tmp_path / name).write_text("a b c")
    config = config_of(context_of(tmp_path, quick=False, bbbc038=tmp_path), tmp_path, 30.0)
    assert (config.data.bbbc038, config.data.train_ids) == (tmp_path, "train.txt")
    assert (config.max_minutes, config.steps) == (0.5, MAX_STEPS)
    assert config.out == tmp_path / "base"


def test_config_of_a_quick_run_reads_few_images(tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    for folder in (data, run):
        folder.mkdir()
    for name in ("train.txt", "val.txt"):
        (data / name).write_text("a b c")
    config = config_of(context_of(tmp_path, bbbc038=data), run, 30.0)
    assert config.data.train_ids is not None
    assert (data / config.data.train_ids).read_text().split() == ["a", "b"]


@pytest.mark.skipif(bool(visible_gpus()), reason="there is a GPU")
def test_onnx_cuda_without_a_gpu_is_skipped_with_the_providers_own_reason(tmp_path: Path) -> None:
    [record] = onnx_cuda.measure(context_of(tmp_path))
    assert record["case"] == "CUDA provider"
    assert record["skipped"].startswith("CUDAExecutionProvider: got no driver of NVIDIA")


def test_onnx_cuda_times_the_steps_of_a_published_version(tmp_path: Path) -> None:
    """By the CPU's provider, whose steps are the same but for their sessions."""
    publish_tiny_graphs(tmp_path / "onnx")
    version = build_repository(tmp_path / "onnx", tmp_path / "repository", threads=1)
    records = list(onnx_cuda.time_steps(context_of(tmp_path), version))
    assert not any("skipped" in record for record in records), records
    encoded = [record["batch"] for record in records if record.get("images_per_s", 0) > 0]
    assert encoded == [1, 2]
    assert [record["prompts"] for record in records if record.get("decode_ms", 0) > 0] == [2]


@pytest.mark.skipif(bool(visible_gpus()), reason="there is a GPU")
def test_onnx_cuda_reports_steps_that_refuse_to_load(tmp_path: Path) -> None:
    publish_tiny_graphs(tmp_path / "onnx")
    version = build_repository(tmp_path / "onnx", tmp_path / "repository", target="cuda")
    [record] = onnx_cuda.time_steps(context_of(tmp_path), version)
    assert "available providers" in record["skipped"]
