"""Search for interpreters, and errors of the wheel check; the conformance tests build the wheel."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cpcsam.errors import ConfigError
from tools.check_wheel import check, find_interpreters


@pytest.fixture
def search_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH, without pyenv."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    return folder


def write_program(file: Path, script: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def test_find_interpreters_takes_the_first_that_runs(search_path: Path, tmp_path: Path) -> None:
    write_program(search_path / "python3.11", "exit 127")  # a shim of pyenv
    in_pyenv = tmp_path / "pyenv/versions/3.11.9/bin/python3.11"
    write_program(in_pyenv, "exit 0")
    (search_path / "python3.12").symlink_to(sys.executable)
    assert find_interpreters(["python3.10", "python3.11", "python3.12"]) == {
        "python3.10": None,
        "python3.11": in_pyenv,
        "python3.12": search_path / "python3.12",
    }


def test_check_with_a_failing_interpreter_names_the_step(tmp_path: Path) -> None:
    write_program(tmp_path / "python", "echo no venv >&2; exit 3")
    with pytest.raises(ConfigError, match=r"venv: got exit code 3 \(no venv\), expected success"):
        check(tmp_path / "x.whl", tmp_path / "python", tmp_path / "venv")
