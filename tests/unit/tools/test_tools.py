"""Preflight, locks, container images and dashboards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tools.check_images import Step, read_steps
from tools.dashboards import DASHBOARDS, dashboard_text
from tools.lock_no_deps import lock_lines
from tools.preflight import (
    MIN_FREE_GB,
    check_disk,
    check_glibc,
    check_platform,
    check_programs,
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
def test_check_platform_accepts_linux_on_x86_64_only(system: str, machine: str, fits: bool) -> None:
    problems = check_platform(system, machine)
    assert (problems == []) is fits
    assert all(system in problem and machine in problem for problem in problems)


@pytest.mark.parametrize(
    "version, fits", [("2.35", True), ("2.41", True), ("3.0", True), ("2.31", False), (None, False)]
)
def test_check_glibc_requires_2_35(version: str | None, fits: bool) -> None:
    assert (check_glibc(version) == []) is fits


def test_check_programs_searches_the_given_path(tmp_path: Path) -> None:
    write_program(tmp_path, "git")
    (problem,) = check_programs(str(tmp_path))
    assert "make: not found" in problem
    assert "apt-get install make" in problem
    write_program(tmp_path, "make")
    assert check_programs(str(tmp_path)) == []


def test_check_disk_reports_too_little_space() -> None:
    assert check_disk(MIN_FREE_GB) == []
    (problem,) = check_disk(3.21)
    assert "3.2 GB" in problem


def item(name: str, version: str, sha256: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "version": version},
        "download_info": {"archive_info": {"hashes": {"sha256": sha256}}},
    }


def test_lock_lines_are_sorted_pinned_and_hashed() -> None:
    report = {"install": [item("zebra", "2.0", "ff" * 32), item("ant", "1.0.1", "0a" * 32)]}
    assert lock_lines([report]).splitlines() == [
        "ant==1.0.1 \\",
        f"    --hash=sha256:{'0a' * 32}",
        "zebra==2.0 \\",
        f"    --hash=sha256:{'ff' * 32}",
    ]


def test_lock_lines_of_several_pythons_list_each_wheel_once() -> None:
    first = {"install": [item("zebra", "2.0", "ff" * 32), item("ant", "1.0.1", "0a" * 32)]}
    second = {"install": [item("zebra", "2.0", "ee" * 32), item("ant", "1.0.1", "0a" * 32)]}
    assert lock_lines([first, second]).splitlines() == [
        "ant==1.0.1 \\",
        f"    --hash=sha256:{'0a' * 32}",
        "zebra==2.0 \\",
        f"    --hash=sha256:{'ee' * 32} \\",
        f"    --hash=sha256:{'ff' * 32}",
    ]


def test_steps_of_a_dockerfile_are_joined_without_comments(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text("# a\nFROM x AS y\nRUN one \\\n    && two\n# b\nENV A=1 \\\n    B=2\n")
    assert read_steps(file) == [
        Step("FROM", "x AS y"),
        Step("RUN", "one && two"),
        Step("ENV", "A=1 B=2"),
    ]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboard_is_as_its_code_writes_it(name: str) -> None:
    file = ROOT / f"deploy/grafana/dashboards/{name}.json"
    text = "run: python -m tools.dashboards"
    assert file.read_text() == dashboard_text(name), text
    panels = json.loads(file.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    corners = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(corners) == len(panels), "panels cover each other"
