"""The build_engine command, in the serving image if this Python has no TensorRT."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from cpcsam.artifacts.manifest import publish
from cpcsam.errors import ExportError
from cpcsam.gpu import Gpu
from export.build_engine import build_engines, main
from export.engines.builder import AHEAD_OF_TIME
from export.engines.container import INSIDE, container_command, triton_image
from export.engines.importing import require_tensorrt_rtx
from tests.support.paths import ROOT


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    config = {"model_size": "vit_t", "image_size": 256, "precision": "fp32"}
    with publish(tmp_path / "onnx", "onnx", config=config):
        pass
    return tmp_path / "onnx"


def test_triton_image_is_the_serving_image() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert triton_image() == services["triton"]["image"]
    dockerfile = (ROOT / services["triton"]["build"]["dockerfile"]).read_text()
    assert f"WORKDIR {INSIDE}" in dockerfile and f"PYTHONPATH={INSIDE}" in dockerfile


def test_container_command_runs_as_this_user(tmp_path: Path) -> None:
    mounts = {tmp_path / "onnx": "/onnx:ro", tmp_path / "build": "/out"}
    command = container_command("image:1", "export.some", ["--onnx=/onnx"], mounts)
    assert command[:3] == ["docker", "run", "--rm"]
    inner = command.index("image:1")
    assert set(command[3:inner]) >= {
        "--gpus=1",
        "--interactive",
        "--network=none",
        f"--user={os.getuid()}:{os.getgid()}",
        f"--volume={ROOT}/cpcsam:{INSIDE}/cpcsam:ro",
        f"--volume={ROOT}/export:{INSIDE}/export:ro",
        f"--volume={tmp_path}/onnx:/onnx:ro",
        f"--volume={tmp_path}/build:/out",
    }
    assert command[inner + 1 :] == ["python3", "-m", "export.some", "--onnx=/onnx"]


def test_build_engine_command_without_tensorrt_and_docker_names_both(
    onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = ["--onnx", str(onnx), "--out", str(tmp_path / "engines")]
    assert main(arguments) == 2
    assert "got neither its Python module nor docker" in capsys.readouterr().err
    assert main([*arguments, "--here"]) == 2
    errors = capsys.readouterr().err
    assert "TensorRT: got No module named 'tensorrt'; No module named 'tensorrt_bind" in errors


def test_build_engines_int8_graphs_raises(tmp_path: Path) -> None:
    config = {"model_size": "vit_t", "image_size": 256, "precision": "int8"}
    with publish(tmp_path / "onnx", "onnx", config=config):
        pass
    gpu = Gpu("NVIDIA L4", "8.9")
    with pytest.raises(ExportError, match="got graphs in int8, expected fp32 or fp16"):
        build_engines(
            tmp_path / "onnx",
            tmp_path / "engines",
            trt=require_tensorrt_rtx(),
            gpu=gpu,
            options=AHEAD_OF_TIME,
        )
