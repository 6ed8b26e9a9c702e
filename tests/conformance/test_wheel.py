"""Content of the wheel, and modules that import where other packages are missing."""

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

NEEDS_TRITONS_BACKEND = {"serving.backend.python_backend"}
SERVING = sorted(
    {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "serving").rglob("*.py")
        if path.stem != "__main__"
    }
    - NEEDS_TRITONS_BACKEND
)
CLIENT = [
    "cpcsam.client.async_client",
    "cpcsam.cli.main",
    "cpcsam.client",
    "cpcsam.client.overlay",
    "cpcsam.v1.segmentation_pb2_grpc",
]
OTHER_STAGES = ["torch", "torchvision", "segment_anything", "peft", "training", "export"]


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


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def blocked(names: list[str]) -> str:
    return f"import sys\nfor name in {names!r}: sys.modules[name] = None\n"


@pytest.mark.parametrize(
    ("modules", "without"),
    [
        (SERVING, [*OTHER_STAGES, "opentelemetry"]),
        (
            CLIENT,
            [
                *OTHER_STAGES,
                "opentelemetry",
                "serving",
                "tritonclient",
                "prometheus_client",
                "grpc_health",
            ],
        ),
        (
            ["export.build_engine", "export.engines.worker"],
            ["torch", "onnx", "yaml", "tritonclient", "training", "serving"],
        ),
        (
            [
                "cpcsam.model.predictor",
                "cpcsam.backends.onnx_backend",
                "cpcsam.automatic.predictor",
            ],
            OTHER_STAGES,
        ),
    ],
    ids=["serving", "client", "engines in the Triton image", "predictor over ONNX Runtime"],
)
def test_modules_import_without_blocked_packages(modules: list[str], without: list[str]) -> None:
    imports = "".join(f"import {module}\n" for module in modules)
    done = run(blocked(without) + imports)
    assert done.returncode == 0, done.stderr


def test_blocked_package_cannot_be_imported() -> None:
    done = run(blocked(["torch"]) + "import torch")
    assert done.returncode != 0 and "torch" in done.stderr


def test_import_cpcsam_loads_no_heavy_package() -> None:
    done = run("import cpcsam, sys; print(cpcsam.__version__); print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    version, modules = done.stdout.splitlines()
    assert version[0].isdigit()
    assert not {"numpy", "grpc", "PIL", "google.protobuf", "torch"} & set(modules.split())
