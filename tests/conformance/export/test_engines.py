"""TensorRT engines run in their own process and are published only within tolerance.

TensorRT runs nothing without a GPU, so ONNX Runtime stands in for its runtime, and the host's
memory for the GPU's; see `tests/support/stand_in_gpu`. All other code is that of a GPU machine.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cpcsam.artifacts.manifest import MANIFEST_NAME, publish, read_manifest, sha256_file
from cpcsam.artifacts.versions import list_versions
from cpcsam.contract import GRAPHS, IMAGE_ENCODER, MASK_DECODER, PROMPT_ENCODER, GraphSpec
from cpcsam.errors import ArtifactError, CpcSamError, ExportError
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.fusion import fuse
from cpcsam.model.run_checkpoint import load_merged, save_merged
from export.accuracy.comparison import require_fidelity
from export.accuracy.runners import FullBatchRunner, OnnxRunner, TorchRunner
from export.check_engines import check_engines, main, measure_profiles
from export.engines.profiles import profiles_of
from export.engines.runner import EngineRunner
from export.graphs.modules import draw_images, draw_prompts
from export.graphs.precisions import trace_graphs
from export.real_images import packaged_images, read_scenes
from export.triton_repository.publishing import build_repository
from tests.support.paths import ROOT
from tests.support.stand_in_gpu import tensorrt

pytestmark = pytest.mark.slow

STAND_IN = ROOT / "tests/support/stand_in_gpu"
IMAGE = packaged_images()[0]


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The merged shipped base; its graphs are in the sibling folder `onnx`."""
    folder = tmp_path_factory.mktemp("engines")
    model = fuse(load_base(ROOT / "weights/vit_t"))
    save_merged(model, folder / "merged", parents={})
    (folder / "onnx").mkdir()
    trace_graphs(model, folder / "onnx", "fp32")
    return folder / "merged"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a stand-in CUDA driver that allocates host memory."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler; on Debian: apt-get install gcc")
    folder = tmp_path_factory.mktemp("driver")
    library = folder / "libcuda.so.1"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(library), str(STAND_IN / "libcuda.c")], check=True
    )
    return folder


@pytest.fixture
def gpu(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let child processes find the stand-ins."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    monkeypatch.setenv("PYTHONPATH", str(STAND_IN))


def make_plans(
    merged: Path, out: Path, shift: Mapping[int, float] | None = None, made_of: str = ""
) -> Path:
    """Publish an artifact of kind `plans`; `shift`, by profile, moves the decoder's logits."""
    parents = {"merged": made_of or sha256_file(merged / MANIFEST_NAME), "onnx": "0" * 64}
    engine = {"tensorrt": "10.0.0", "compute_capability": "8.9"}
    config = {**read_manifest(merged).config, "precision": "fp16", "engine": engine}
    metrics = {"build_seconds": {}}
    with publish(out, "plans", parents=parents, config=config, metrics=metrics) as staging:
        for graph in GRAPHS:
            profiles = [
                {name: [r.smallest, r.usual, r.largest] for name, r in profile.items()}
                for profile in profiles_of(graph, 256)
            ]
            file = merged.parent / f"onnx/{graph.name}.onnx"
            content = tensorrt.plan(
                file, profiles, dict(shift or {}) if graph is MASK_DECODER else {}
            )
            (staging / f"{graph.name}.plan").write_bytes(content)
    return out


def command(plans: Path) -> list[str]:
    return [sys.executable, "-m", "export.engines.worker", str(plans)]


@pytest.fixture
def engines(gpu: None, merged: Path, tmp_path: Path) -> Iterator[EngineRunner]:
    with EngineRunner(command(make_plans(merged, tmp_path / "plans")), "fp16") as runner:
        yield runner


def draw(batch: int, prompts: int, points: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    tensors = draw_images(256, batch, generator)
    return tensors | draw_prompts(256, batch, prompts, points, generator)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (8, 1, 3), (4, 16, 2), (1, 64, 16), (2, 3, 4)], ids=str
)
def test_engine_runner_in_every_profile_equals_onnxruntime(
    engines: EngineRunner, merged: Path, shape: tuple[int, int, int]
) -> None:
    assert engines.name == "TensorRT 10.0.0.stand-in, fp16"
    tensors, reference = draw(*shape), OnnxRunner(merged.parent / "onnx", "fp32")
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


@pytest.mark.parametrize(
    ("most", "calls"), [((8, 1), 5 * [(8, 1)]), ((4, 16), [(4, 16)]), ((3, 2), 3 * [(3, 2)])]
)
def test_full_batch_runner_fills_every_call_and_keeps_outputs(
    merged: Path, most: tuple[int, int], calls: list[tuple[int, int]]
) -> None:
    runner = Recorded(load_merged(merged))
    runner.calls = []
    tensors = draw(2, 5, 3)
    full = FullBatchRunner(runner, *most)
    for graph in GRAPHS:
        actual = full(graph, tensors)
        made, runner.calls = runner.calls, []
        sizes = [(most[0],)] if graph is IMAGE_ENCODER else calls
        assert made == [(graph.name, *shape) for shape in sizes]
        expected = runner(graph, tensors)
        runner.calls = []
        for output, reference_output in zip(actual, expected, strict=True):
            torch.testing.assert_close(output, reference_output, rtol=1e-4, atol=1e-4)
        tensors |= dict(zip(graph.output_names, expected, strict=True))


def test_check_engines_within_tolerance_publishes_once(
    gpu: None, merged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plans, out = make_plans(merged, tmp_path / "plans"), tmp_path / "engines"
    arguments = ["--plans", str(plans), "--merged", str(merged), "--out", str(out)]
    arguments += ["--images", str(IMAGE)]
    run = [sys.executable, "-m", "export.check_engines", *arguments]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "banner" not in line]
    assert lines[0] == f"{out}: engines within tolerance of torch"
    assert [line.split(":")[0].split(", ")[-1] for line in lines[1:]] == [
        "8 × 1",
        "4 × 16",
        "1 × 64",
    ]
    assert "IoU mean 1.0000" in lines[1]

    manifest = read_manifest(out, "engine")
    assert {*manifest.files} == {f"{graph.name}.plan" for graph in GRAPHS} | {
        "comparison.json",
        "comparison.html",
    }
    assert manifest.parents["plans"] == sha256_file(plans / MANIFEST_NAME)
    assert manifest.parents["onnx"] == "0" * 64
    assert manifest.config == read_manifest(plans).config, "the model's scale included"
    assert {*manifest.metrics} == {"build_seconds", "grid", "masks"}
    assert not check_engines(plans, merged, out, images=[IMAGE])
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{out}: unchanged\n"
    build_repository(out, tmp_path / "store", target="gpu")


def test_check_engines_bad_profile_raises_and_publishes_nothing(
    gpu: None, merged: Path, tmp_path: Path
) -> None:
    plans = make_plans(merged, tmp_path / "plans", {2: 0.5})
    out = tmp_path / "engines"
    with pytest.raises(ExportError, match=r"TensorRT .*, fp16, 1 × 64, mean mask IoU .* got 0\."):
        check_engines(plans, merged, out, images=[IMAGE], command=command(plans))
    assert {path.name for path in tmp_path.iterdir()} == {"plans", "engines-rejected.html"}
    assert "fp16, 1 × 64, mean mask" in (tmp_path / "engines-rejected.html").read_text()


def test_build_repository_from_unchecked_plans_raises(merged: Path, tmp_path: Path) -> None:
    plans = make_plans(merged, tmp_path / "plans")
    with pytest.raises(ArtifactError, match="got kind plans, expected engine"):
        build_repository(plans, tmp_path / "store", target="gpu")
    assert not list_versions(tmp_path / "store")


class Wrong(TorchRunner):
    """Engine whose decoder is silently wrong in large batches, as fused kernels have been."""

    name = "wrong"

    def __call__(self, graph: GraphSpec, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        outputs = super().__call__(graph, inputs)
        if graph is MASK_DECODER and outputs[0].shape[:2] == (4, 16):
            outputs[0][-1, -1] *= -1
        return outputs


def test_measure_profiles_error_in_last_item_of_full_batch_is_found(merged: Path) -> None:
    model = load_merged(merged)
    scenes = read_scenes([IMAGE], 256)
    measured = measure_profiles(TorchRunner(model), Wrong(model), scenes)
    for fidelity, good in zip(measured, (True, False, True), strict=True):
        if good:
            require_fidelity(fidelity, "fp16", 256)
        else:
            with pytest.raises(ExportError, match=r"wrong, 4 × 16, (mean|least) mask IoU"):
                require_fidelity(fidelity, "fp16", 256)


def test_check_engines_plans_of_another_model_raises(merged: Path, tmp_path: Path) -> None:
    plans = make_plans(merged, tmp_path / "plans", made_of="1" * 64)
    with pytest.raises(ArtifactError, match="got plans of the merged model 1111"):
        check_engines(plans, merged, tmp_path / "engines", images=[IMAGE])


def test_engine_runner_plan_of_another_tensorrt_raises(
    gpu: None, merged: Path, tmp_path: Path
) -> None:
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


def test_check_engines_command_without_tensorrt_and_docker_fails_in_one_line(
    merged: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plans = make_plans(merged, tmp_path / "plans")
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = ["--plans", plans, "--merged", merged, "--out", tmp_path / "engines"]
    assert main([*map(str, arguments), "--images", str(IMAGE)]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "python -m" in line]
    assert len(errors) == 1 and "got neither its Python module nor docker" in errors[0]
    assert not (tmp_path / "engines").exists()
