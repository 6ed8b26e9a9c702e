"""The preflight reports each missing prerequisite with its fix."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tools.preflight import (
    MIN_FREE_GB,
    check_disk,
    check_glibc,
    check_interpreter,
    check_platform,
    check_programs,
)


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


@pytest.mark.parametrize(
    "system, machine, fits",
    [
        ("Linux", "x86_64", True),
        ("Linux", "aarch64", False),
        ("Darwin", "arm64", False),
        ("Windows", "AMD64", False),
    ],
)
def test_platform(system: str, machine: str, fits: bool) -> None:
    problems = check_platform(system, machine)
    assert (problems == []) is fits
    assert all(system in problem and machine in problem for problem in problems)


@pytest.mark.parametrize(
    "version, fits", [("2.35", True), ("2.41", True), ("3.0", True), ("2.31", False), (None, False)]
)
def test_glibc(version: str | None, fits: bool) -> None:
    assert (check_glibc(version) == []) is fits


def test_programs_are_looked_up_on_the_given_path(tmp_path: Path) -> None:
    write_program(tmp_path, "git")
    (problem,) = check_programs(str(tmp_path))
    assert "make: not found" in problem
    assert "apt-get install make" in problem
    write_program(tmp_path, "make")
    assert check_programs(str(tmp_path)) == []


def test_disk() -> None:
    assert check_disk(MIN_FREE_GB) == []
    (problem,) = check_disk(3.21)
    assert "3.2 GB" in problem


def test_the_running_interpreter_fits() -> None:
    assert check_interpreter(sys.executable) == []


def test_missing_interpreter() -> None:
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
def test_unfit_interpreter(tmp_path: Path, answer: str, parts: list[str]) -> None:
    python = write_program(tmp_path, "python", f"echo '{answer}'")
    problems = check_interpreter(str(python))
    assert len(problems) == len(parts)
    assert all(part in problem for part, problem in zip(parts, problems, strict=True))


def test_command_names_everything_at_once(tmp_path: Path) -> None:
    options = ("--python", "no-such-python", "--venv", str(tmp_path / "venv"))
    done = run_preflight(*options, path=str(tmp_path))
    assert done.returncode == 2
    assert done.stdout == ""
    for part in ("git: not found", "make: not found", "no-such-python does not run"):
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 3


def test_command_passes_where_nothing_is_missing(tmp_path: Path) -> None:
    for name in ("git", "make"):
        write_program(tmp_path, name)
    options = ("--python", sys.executable, "--venv", str(tmp_path / "deep" / "venv"))
    done = run_preflight(*options, path=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
