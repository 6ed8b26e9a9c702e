"""Serving and the client work where torch is not installed, and the package itself is light."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.paths import ROOT

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
        (SERVING, OTHER_STAGES),
        (CLIENT, [*OTHER_STAGES, "serving", "tritonclient", "prometheus_client", "grpc_health"]),
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
