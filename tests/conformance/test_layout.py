"""The size of folders and files, and of the whole tree."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SOURCES = ("benchmarks", "cpcsam", "demo", "export", "reporting", "serving", "tests", "tools",
           "training")  # fmt: skip
MAX_MODULES = 20
MAX_LINES = 300
MAX_TRACKED = 640
MODULES = [
    path
    for source in SOURCES
    for path in sorted((ROOT / source).rglob("*.py"))
    if not path.stem.endswith(("_pb2", "_pb2_grpc"))
]


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """Paths of all tracked files, relative to the root."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of git")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return listed.stdout.splitlines()


def relative(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def test_folders_hold_few_modules() -> None:
    modules = Counter(path.parent for path in MODULES if path.stem != "__init__")
    assert relative([folder for folder, count in modules.items() if count > MAX_MODULES]) == []


def test_files_are_short() -> None:
    long = [path for path in MODULES if len(path.read_text().splitlines()) > MAX_LINES]
    assert relative(long) == []


def test_tracked_files_are_few(tracked: list[str]) -> None:
    assert len(tracked) <= MAX_TRACKED


def test_results_of_benchmarks_are_not_tracked(tracked: list[str]) -> None:
    assert [path for path in tracked if path.startswith("benchmarks/results/")] == []


def test_unit_tests_mirror_the_source() -> None:
    folders = {path.parent.relative_to(ROOT / "tests/unit") for path in MODULES
               if path.is_relative_to(ROOT / "tests/unit")}  # fmt: skip
    assert [str(folder) for folder in folders if not (ROOT / folder).is_dir()] == []
