"""TensorRT engines run in their own process, in every profile, and say what they miss.

ONNX Runtime stands in for TensorRT's runtime, and the host's memory for the GPU's, as in
test_engines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path

import pytest
import tensorrt_rtx_bindings
import torch
from torch import Tensor

from cpcsam.artifacts.manifest import publish
from cpcsam.contract import GRAPHS, IMAGE_ENCODER, PROMPT_ENCODER, GraphSpec
from cpcsam.errors import CpcSamError, ExportError
from cpcsam.model.fusion import FusedCpcSam, fuse
from export.accuracy.runners import FullBatchRunner, OnnxRunner, TorchRunner
from export.engines.runner import EngineRunner
from export.graphs.modules import draw_images, draw_prompts
from tests.support.model_factory import windowed_cpcsam
from tests.support.paths import ROOT
from tests.support.stand_in_gpu import STAND_IN, command, make_plans, tensorrt
from tests.support.tiny_models import publish_tiny_graphs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of a merged model, beside graphs to the contract that take little time."""
    folder = tmp_path_factory.mktemp("tiny")
    publish_tiny_graphs(folder / "onnx")
    config = {"model_size": "tiny", "image_size": 256}
    with publish(folder / "merged", "merged", config=config):
        pass
    return folder / "merged"


@pytest.fixture(scope="module")
def shallow() -> FusedCpcSam:
    """A random model of two blocks."""
    return fuse(windowed_cpcsam(model_size="vit_t"))


@pytest.fixture
def engines(gpu: None, tiny: Path, tmp_path: Path) -> Iterator[EngineRunner]:
    with EngineRunner(command(make_plans(tiny, tmp_path / "plans")), "fp16") as runner:
        yield runner


def draw(batch: int, prompts: int, points: int) -> dict[str, Tensor]:
    """Draw inputs without NaN and infinity, which the small graphs do not mask."""
    generator = torch.Generator().manual_seed(5)
    tensors = draw_images(256, batch, generator)
    tensors |= draw_prompts(256, batch, prompts, points, generator)
    tensors["point_coords"].nan_to_num_(0, 0, 0)
    return tensors


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (4, 1, 3), (4, 16, 2), (1, 16, 16), (2, 3, 4)], ids=str
)
def test_engine_runner_in_every_profile_equals_onnxruntime(
    engines: EngineRunner, tiny: Path, shape: tuple[int, int, int]
) -> None:
    assert engines.name == "TensorRT 10.0.0.stand-in, fp16"
    tensors, reference = draw(*shape), OnnxRunner(tiny.parent / "onnx", "fp32")
    for graph in GRAPHS:
        expected, actual = reference(graph, tensors), engines(graph, tensors)
        for reference_output, output in zip(expected, actual, strict=True):
            torch.testing.assert_close(output, reference_output, rtol=1e-4, atol=1e-4)
        tensors |= dict(zip(graph.output_names, expected, strict=True))


def test_engine_runner_shapes_beyond_every_profile_raises_and_keeps_working(
    engines: EngineRunner,
) -> None:
    tensors = draw(5, 16, 1) | {"image_embeddings": torch.zeros(5, 256, 16, 16)}
    with pytest.raises(
        ExportError, match=r"plan of prompt_encoder: got inputs of image_emb.*5, 16"
    ):
        engines(PROMPT_ENCODER, tensors)
    smaller = {name: tensor[:4] for name, tensor in tensors.items()}
    assert engines(PROMPT_ENCODER, smaller)[0].shape == (4, 16, 2, 256)


class Recorded(TorchRunner):
    """Torch runner that records the images and prompts of every call."""

    def __call__(self, graph: GraphSpec, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        first = inputs[graph.input_names[-1]]
        self.calls.append((graph.name, *first.shape[: 1 if graph is IMAGE_ENCODER else 2]))
        return super().__call__(graph, inputs)

    calls: list[tuple[str | int, ...]]


@pytest.mark.parametrize(("most", "calls"), [(1, 5 * [(4, 1)]), (16, [(4, 16)]), (2, 3 * [(4, 2)])])
def test_full_batch_runner_fills_every_call_and_keeps_outputs(
    shallow: FusedCpcSam, most: int, calls: list[tuple[int, int]]
) -> None:
    runner = Recorded(shallow)
    runner.calls = []
    tensors = draw(2, 5, 3)
    full = FullBatchRunner(runner, most)
    for graph in GRAPHS:
        actual = full(graph, tensors)
        made, runner.calls = runner.calls, []
        sizes = [(8,)] if graph is IMAGE_ENCODER else calls
        assert made == [(graph.name, *shape) for shape in sizes]
        expected = runner(graph, tensors)
        runner.calls = []
        for output, reference_output in zip(actual, expected, strict=True):
            torch.testing.assert_close(output, reference_output, rtol=1e-4, atol=1e-4)
        tensors |= dict(zip(graph.output_names, expected, strict=True))


def test_engine_runner_plan_of_another_tensorrt_raises(gpu: None, tmp_path: Path) -> None:
    for graph in GRAPHS:
        (tmp_path / f"{graph.name}.plan").write_bytes(b"of another TensorRT")
    with (
        EngineRunner(command(tmp_path), "fp16") as runner,
        pytest.raises(ExportError, match=r"image_encoder\.plan: got a plan that cannot be loaded"),
    ):
        runner(IMAGE_ENCODER, draw(1, 1, 1))


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        (["driver", "tensorrt"], None),
        (["tensorrt"], r"the GPU's driver: got libcuda\.so\.1: cannot open"),
        (["driver"], "TensorRT: got No module named 'tensorrt'"),
    ],
)
def test_engine_runner_missing_driver_or_tensorrt_is_named(
    driver: Path, installed: list[str], message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if Path("/usr/lib/x86_64-linux-gnu/libcuda.so.1").exists():
        pytest.skip("this machine has a GPU's driver")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver) if "driver" in installed else "")
    monkeypatch.setenv("PYTHONPATH", str(STAND_IN) if "tensorrt" in installed else "")
    with pytest.raises(CpcSamError, match=message) if message else nullcontext():
        EngineRunner(command(ROOT), "fp16").__exit__()


def test_stand_in_has_only_names_of_tensorrt() -> None:
    for name in ("Runtime", "ICudaEngine", "IExecutionContext"):
        stand_in, real = getattr(tensorrt, name), getattr(tensorrt_rtx_bindings, name)
        used = {word for word in vars(stand_in) if not word.startswith("_")}
        assert used and used <= {*dir(real)}, name
    assert hasattr(tensorrt_rtx_bindings.ICudaEngine, "num_optimization_profiles")
    assert hasattr(tensorrt_rtx_bindings.Logger, "ERROR") and tensorrt_rtx_bindings.nptype
