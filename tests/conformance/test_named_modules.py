"""Sizes of folders and files; modules and files that configuration and scripts name exist."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections import Counter
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.paths import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
STAGES = r"benchmarks|cpcsam|demo|export|reporting|serving|tools|training"
SCRIPTS = [
    ROOT / "Makefile",
    ROOT / ".ci/run",
    ROOT / "docker-compose.yml",
    *sorted(path for path in (ROOT / "deploy").iterdir() if path.is_file()),
    *sorted((ROOT / "training/configs").glob("*.yaml")),
]
SHIMS = sorted((ROOT / "model_repository").rglob("model.py"))
BRACES = re.compile(r"\{([^}]*)\}")

SOURCES = ("benchmarks", "cpcsam", "demo", "export", "reporting", "serving", "tests", "tools",
           "training")  # fmt: skip
MAX_MODULES = 20
MAX_LINES = 300
MAX_TRACKED = 1310
MODULES = [
    path
    for source in SOURCES
    for path in sorted((ROOT / source).rglob("*.py"))
    if not path.stem.endswith(("_pb2", "_pb2_grpc"))
]


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def expand(pattern: str) -> list[str]:
    """Expand the braces of a pattern, as a shell does."""
    choices = [part.split(",") for part in BRACES.findall(pattern)]
    template = BRACES.sub("{}", pattern)
    return [template.format(*words) for words in product(*choices)]


def test_braces_are_expanded() -> None:
    assert expand("{a,b}/{c,d}.py") == ["a/c.py", "a/d.py", "b/c.py", "b/d.py"]


@pytest.mark.parametrize("path", SCRIPTS, ids=ids)
def test_modules_that_are_run_exist(path: Path) -> None:
    text = path.read_text()
    named = {
        *re.findall(rf"(?:python3?|\$\(PY\)) -m ((?:{STAGES})\b[\w.]*)", text),
        *re.findall(rf'"-m", "((?:{STAGES})\b[\w.]*)"', text),
    }
    missing = [name for name in named if find_spec(name.rstrip(".")) is None]
    assert missing == []


def test_lint_exceptions_name_files() -> None:
    patterns = PYPROJECT["tool"]["ruff"]["lint"]["per-file-ignores"]
    named = [name for pattern in patterns for name in expand(pattern)]
    assert [name for name in named if not any(ROOT.glob(name))] == []


def test_types_are_checked_everywhere() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages == {*PYPROJECT["tool"]["mypy"]["files"]}


def test_layers_are_checked_everywhere() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    [roots] = re.findall(
        r"^root_packages =\n((?: +\w+\n)+)", (ROOT / ".importlinter").read_text(), re.M
    )
    assert packages == {*roots.split()}


def test_commands_of_the_package_exist() -> None:
    for target in PYPROJECT["project"]["scripts"].values():
        assert find_spec(target.partition(":")[0]) is not None, target


@pytest.mark.parametrize("path", SHIMS, ids=ids)
def test_models_of_triton_import_what_exists(path: Path) -> None:
    imports = [node for node in ast.walk(ast.parse(path.read_text()))
               if isinstance(node, ast.ImportFrom)]  # fmt: skip
    assert imports
    for node in imports:
        assert node.module is not None and find_spec(node.module) is not None, node.module
        source = find_spec(node.module)
        assert source is not None and source.origin is not None
        defined = {
            item.name
            for item in ast.parse(Path(source.origin).read_text()).body
            if isinstance(item, (ast.FunctionDef, ast.ClassDef))
        }
        assert {alias.name for alias in node.names} <= defined, path


def test_mounts_of_the_containers_exist() -> None:
    compose: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    mounts = [
        volume.split(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", [])
        if volume.startswith("./")
    ]
    assert mounts
    assert [mount for mount in mounts if not (ROOT / mount).exists()] == []


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
