"""Engines are built in the container, which a program named docker stands for."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from cpcsam.artifacts.manifest import publish
from cpcsam.errors import ExportError
from export.build_engine import main
from export.engines.container import container_command, triton_image
from export.engines.runner import EngineRunner, plan_command


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
            r"image cpcsam-triton:\S+: got No such image, .* docker compose --profile gpu build ",
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


def test_engine_runner_exited_process_raises_with_status() -> None:
    with pytest.raises(ExportError, match="got its end, with exit status 3"):
        EngineRunner([sys.executable, "-c", "print('a banner'); exit(3)"], "fp16")
