"""TensorRT engines are compared with torch and published only within tolerance.

TensorRT runs nothing without a GPU, so ONNX Runtime stands in for its runtime, and the host's
memory for the GPU's; see `tests/support/stand_in_gpu`. All other code is that of a GPU machine.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from torch import Tensor

from cpcsam.artifacts.manifest import MANIFEST_NAME, read_manifest, sha256_file
from cpcsam.artifacts.versions import list_versions
from cpcsam.contract import GRAPHS, MASK_DECODER, GraphSpec
from cpcsam.errors import ArtifactError, ExportError
from cpcsam.images.options import Intensity
from cpcsam.model.run_checkpoint import load_merged
from export.accuracy import self_prompts
from export.accuracy.comparison import require_fidelity
from export.accuracy.runners import TorchRunner
from export.check_engines import check_engines, main, measure_profiles
from export.real_images import packaged_images, read_scenes
from export.triton_repository.publishing import build_repository
from tests.support.stand_in_gpu import command, make_plans, tensorrt

pytestmark = pytest.mark.slow

IMAGE = packaged_images()[0]


@pytest.fixture(scope="module")
def merged(shipped_build: Path) -> Path:
    """The merged shipped base; its graphs are in the sibling folder `onnx`."""
    return shipped_build / "merged"


@pytest.fixture
def few_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt few masks: engines fill their batches with copies whatever their number."""
    monkeypatch.setattr(self_prompts, "CLICKS_A_SIDE", 4)
    monkeypatch.setattr(self_prompts, "MAX_ENTITIES", 3)


def test_check_engines_within_tolerance_publishes_once(
    gpu: None,
    few_prompts: None,
    merged: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plans, out = make_plans(merged, tmp_path / "plans"), tmp_path / "engines"
    arguments = ["--plans", str(plans), "--merged", str(merged), "--out", str(out)]
    arguments += ["--images", str(IMAGE)]
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt)
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{out}: engines within tolerance of torch"
    assert [line.split(":")[0].split(", ")[-1] for line in lines[1:]] == [
        "4 × 1",
        "4 × 16",
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
    gpu: None, few_prompts: None, merged: Path, tmp_path: Path
) -> None:
    plans = make_plans(merged, tmp_path / "plans", {1: 0.5})
    out = tmp_path / "engines"
    with pytest.raises(ExportError, match=r"TensorRT .*, fp16, 4 × 16, mean mask IoU .* got 0\."):
        check_engines(plans, merged, out, images=[IMAGE], command=command(plans))
    assert {path.name for path in tmp_path.iterdir()} == {"plans", "engines-rejected.html"}
    assert "fp16, 4 × 16, mean mask" in (tmp_path / "engines-rejected.html").read_text()


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
        if graph.name == MASK_DECODER.name and outputs[0].shape[:2] == (4, 16):
            outputs[0][-1, -1] *= -1
        return outputs


def test_measure_profiles_error_in_last_item_of_full_batch_is_found(
    few_prompts: None, merged: Path
) -> None:
    model = load_merged(merged)
    scenes = read_scenes([IMAGE], 256, Intensity())
    measured = measure_profiles(TorchRunner(model), Wrong(model), scenes)
    for fidelity, good in zip(measured, (True, False), strict=True):
        if good:
            require_fidelity(fidelity, "fp16", 256)
        else:
            with pytest.raises(ExportError, match=r"wrong, 4 × 16, (mean|least) mask IoU"):
                require_fidelity(fidelity, "fp16", 256)


def test_check_engines_plans_of_another_model_raises(merged: Path, tmp_path: Path) -> None:
    plans = make_plans(merged, tmp_path / "plans", made_of="1" * 64)
    with pytest.raises(ArtifactError, match="got plans of the merged model 1111"):
        check_engines(plans, merged, tmp_path / "engines", images=[IMAGE])


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
