"""The command that builds engines: in the serving image where this Python has no TensorRT."""

from __future__ import annotations

import os
import re
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
from export.engines.runner import plan_command
from tests.support.paths import ROOT


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    config = {"model_size": "vit_t", "image_size": 256, "precision": "fp32"}
    with publish(tmp_path / "onnx", "onnx", config=config):
        pass
    return tmp_path / "onnx"


def docker(path: Path, monkeypatch: pytest.MonkeyPatch, run: str, inspect: str = "exit 0") -> None:
    """Put a program named docker on the path, alone."""
    file = path / "bin/docker"
    file.parent.mkdir()
    file.write_text(f'#!/bin/sh\nif [ "$1" = run ]; then {run}; else {inspect}; fi\n')
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(file.parent))


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


def test_build_engine_command_runs_container(
    onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker(tmp_path, monkeypatch, f'printf "%s\\n" "$@" > {tmp_path}/told')
    out = tmp_path / "new/plans"
    assert main(["--onnx", str(onnx), "--out", str(out), "--workspace-gb", "2"]) == 0
    assert out.parent.is_dir()
    told = (tmp_path / "told").read_text().splitlines()
    arguments = ["--here", "--onnx=/onnx", "--out=/out/plans", "--workspace-gb", "2.0"]
    mounts = {onnx: "/onnx:ro", out.parent: "/out"}
    assert told == container_command(triton_image(), "export.build_engine", arguments, mounts)[1:]


def test_plan_command_runs_building_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker(tmp_path, monkeypatch, "exit 0")
    command = plan_command(tmp_path)
    assert f"--volume={tmp_path}:/plans:ro" in command and triton_image() in command
    assert command[-3:] == ["-m", "export.engines.worker", "/plans"]


@pytest.mark.parametrize(
    ("run", "inspect", "message"),
    [
        ("exit 3", "exit 0", "the build in the container: got exit status 3"),
        (
            "exit 0",
            "echo 'No such image' >&2; exit 1",
            r"image cpcsam-triton:\S+: got No such image, .* docker-compose build triton",
        ),
    ],
)
def test_build_engine_command_docker_failure_is_one_line(
    onnx: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run: str,
    inspect: str,
    message: str,
) -> None:
    docker(tmp_path, monkeypatch, run, inspect)
    assert main(["--onnx", str(onnx), "--out", str(tmp_path / "engines")]) == 2
    errors = capsys.readouterr().err
    assert re.match(rf"python -m export\.build_engine: {message}", errors)
    assert errors.count("\n") == 1


def test_build_engine_command_without_tensorrt_and_docker_names_both(
    onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["--onnx", str(onnx), "--out", str(tmp_path / "engines")]
    assert main(words) == 2
    assert "got neither its Python module nor docker" in capsys.readouterr().err
    assert main([*words, "--here"]) == 2
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
