"""The preflight command, and the interpreters that it runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cpcsam.errors import ConfigError
from tests.support.paths import ROOT
from tools.check_wheel import check, find_interpreters
from tools.preflight import check_interpreter


def run_preflight(*options: str, path: str) -> subprocess.CompletedProcess[str]:
    """Run the command by this interpreter, without any of the environment's packages."""
    return subprocess.run(
        [sys.executable, "-I", "-S", str(ROOT / "tools" / "preflight.py"), *options],
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def write_program(folder: Path, name: str, script: str = "exit 0") -> Path:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def test_check_interpreter_accepts_the_running_python() -> None:
    assert check_interpreter(sys.executable) == []


def test_check_interpreter_reports_a_missing_python() -> None:
    (problem,) = check_interpreter("/nonexistent/python3.11")
    assert "/nonexistent/python3.11 does not run" in problem
    assert "apt-get install python3.11" in problem


@pytest.mark.parametrize(
    "answer, parts",
    [
        ('{"version": [3, 13, 1], "shared_library": true, "venv": true}', ["got 3.13.1"]),
        (
            '{"version": [3, 10, 9], "shared_library": true, "venv": true}',
            ["expected 3.11 or 3.12"],
        ),
        ('{"version": [3, 11, 2], "shared_library": true, "venv": false}', ["python3.11-venv"]),
        ('{"version": [3, 12, 1], "shared_library": true, "venv": true}', []),
        (
            '{"version": [3, 12, 1], "shared_library": false, "venv": false}',
            ["python3.12-venv", "libpython3.12.so.1.0: not found"],
        ),
        (
            '{"version": [3, 11, 2], "shared_library": false, "venv": false}',
            ["venv module: not found", "libpython3.11.so.1.0: not found"],
        ),
    ],
)
def test_check_interpreter_reports_each_problem(
    tmp_path: Path, answer: str, parts: list[str]
) -> None:
    python = write_program(tmp_path, "python", f"echo '{answer}'")
    problems = check_interpreter(str(python))
    assert len(problems) == len(parts)
    assert all(part in problem for part, problem in zip(parts, problems, strict=True))


def test_command_reports_all_problems_at_once(tmp_path: Path) -> None:
    options = ("--python", "no-such-python", "--venv", str(tmp_path / "venv"))
    done = run_preflight(*options, path=str(tmp_path))
    assert done.returncode == 2
    assert done.stdout == ""
    for part in ("git: not found", "make: not found", "no-such-python does not run"):
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 3


def test_command_without_problems_exits_0_silently(tmp_path: Path) -> None:
    for name in ("git", "make"):
        write_program(tmp_path, name)
    options = ("--python", sys.executable, "--venv", str(tmp_path / "deep" / "venv"))
    done = run_preflight(*options, path=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def search_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH, without pyenv."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    return folder


def write_script(file: Path, script: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def test_find_interpreters_takes_the_first_that_runs(search_path: Path, tmp_path: Path) -> None:
    write_script(search_path / "python3.11", "exit 127")  # a shim of pyenv
    in_pyenv = tmp_path / "pyenv/versions/3.11.9/bin/python3.11"
    write_script(in_pyenv, "exit 0")
    (search_path / "python3.12").symlink_to(sys.executable)
    assert find_interpreters(["python3.10", "python3.11", "python3.12"]) == {
        "python3.10": None,
        "python3.11": in_pyenv,
        "python3.12": search_path / "python3.12",
    }


def test_check_with_a_failing_interpreter_names_the_step(tmp_path: Path) -> None:
    write_script(tmp_path / "python", "echo no venv >&2; exit 3")
    with pytest.raises(ConfigError, match=r"venv: got exit code 3 \(no venv\), expected success"):
        check(tmp_path / "x.whl", tmp_path / "python", tmp_path / "venv")
