"""The wheel holds `cpcsam` and nothing else, and imports without the packages of its extras."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tools.check_wheel import build_wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def files_below(folder: Path) -> set[str]:
    return {
        file.relative_to(folder.parent).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def test_wheel_contains_only_the_package(unpacked: Path) -> None:
    packed = files_below(unpacked / "cpcsam")
    assert packed == files_below(ROOT / "cpcsam")
    assert {"cpcsam/py.typed", "cpcsam/v1/segmentation.proto", "cpcsam/v1/masks.proto"} <= packed
    assert {path.name for path in unpacked.iterdir()} == {"cpcsam", "cpcsam-0.1.0.dist-info"}


def test_wheel_metadata_names_core_dependencies_and_the_command(unpacked: Path) -> None:
    info = unpacked / "cpcsam-0.1.0.dist-info"
    metadata = BytesParser().parsebytes((info / "METADATA").read_bytes())
    assert metadata["Name"] == "cpcsam"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert (info / "licenses" / "LICENSE").is_file()
    assert "cpcsam = cpcsam.cli.main:main" in (info / "entry_points.txt").read_text()
    core = {line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert {re.split(r"[<>=]", line)[0] for line in core} == {"grpcio", "numpy", "protobuf"}


def test_bare_import_needs_no_third_party_package(unpacked: Path) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(unpacked)!r}); import cpcsam; print(cpcsam.__file__)"
    )
    # -S leaves out site-packages: only the wheel and the standard library are there.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == unpacked / "cpcsam" / "__init__.py"


def test_client_and_command_line_import_without_torch(unpacked: Path) -> None:
    modules = sorted(
        ".".join(path.relative_to(unpacked).with_suffix("").parts).removesuffix(".__init__")
        for pattern in ("client/*.py", "cli/*.py")
        for path in (unpacked / "cpcsam").glob(pattern)
    )
    assert {"cpcsam.client.async_client", "cpcsam.client", "cpcsam.cli.segment"} <= set(modules)
    script = (
        f"import importlib, sys; sys.path.insert(0, {str(unpacked)!r})\n"
        "for name in ('torch', 'torchvision', 'onnxruntime', 'tritonclient', 'serving'):\n"
        "    sys.modules[name] = None\n"
        f"for name in {modules!r}:\n"
        f"    assert importlib.import_module(name).__file__.startswith({str(unpacked)!r})\n"
        "from cpcsam.cli.main import main\n"
        "main(['segment', '--help'])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
