from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from cpcsam.artifacts.manifest import publish
from cpcsam.artifacts.versions import switch_to, writing
from cpcsam.errors import CpcSamError, ServingError
from cpcsam.gpu import Gpu, tensorrt_version, visible_gpus
from serving.triton import install as triton_install
from serving.triton.check_repository import check_machine, open_repository
from serving.triton.install import STUB, find_triton
from tests.support.paths import ROOT


def test_find_triton_lays_out_the_backend_once(tmp_path: Path) -> None:
    first, second = find_triton(tmp_path), find_triton(tmp_path)
    assert first == second
    assert first.server.is_file()
    assert {path.name for path in (first.backends / "python").iterdir()} >= {
        STUB,
        "libtriton_python.so",
        "triton_python_backend_utils.py",
    }
    assert len(list(tmp_path.iterdir())) == 1


def test_find_triton_with_an_old_c_library_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.31"))
    with pytest.raises(ServingError, match=r"got glibc 2\.31, .* 2\.35 or later; use Debian 12"):
        find_triton()


def test_find_triton_on_another_machine_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(ServingError, match="got linux aarch64 glibc, expected Linux x86-64"):
        find_triton()


def test_find_triton_with_numpy_2_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.4.0")
    with pytest.raises(ServingError, match=r"numpy: got 2\.4\.0, .* pip install 'numpy<2'"):
        find_triton()


def test_find_triton_without_the_wheel_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_install, "WHEEL", "nvidia-pytriton-that-is-not-there")
    with pytest.raises(ServingError, match="not installed, .* pip install --no-deps nvidia-pyt"):
        find_triton()


def test_find_triton_without_shared_libraries_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = "libpython3.11.so.9.9"
    install = find_triton(tmp_path)
    stub = install.backends / "python" / STUB
    content = stub.read_bytes()
    assert len(missing) == len(triton_install.LIBPYTHON)
    stub.write_bytes(content.replace(triton_install.LIBPYTHON.encode(), missing.encode()))
    with pytest.raises(ServingError, match=r"libpython3\.11\.so\.9\.9: got no such library"):
        find_triton(tmp_path)
    monkeypatch.setattr(triton_install, "LIBPYTHON", missing)
    with pytest.raises(ServingError, match=r"apt-get install libpython3\.11, or use a Python"):
        triton_install._check_libraries(install)


def test_find_triton_with_a_read_only_cache_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ServingError, match="set XDG_CACHE_HOME"):
        find_triton(tmp_path / "file")


ENGINE = {"tensorrt": "1.7.1", "compute_capability": "8.9"}
L4, A10 = Gpu("NVIDIA L4", "8.9"), Gpu("NVIDIA A10G", "8.6")


def rtx_library() -> Path:
    """TensorRT-RTX, whose library reports its version as TensorRT's does."""
    spec = find_spec("tensorrt_rtx_libs")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).with_name("libtensorrt_rtx.so.1")


def make_store(path: Path, target: str, engine: dict[str, str] | None = None) -> Path:
    config = {"target": target, "image_size": 1024} | ({"engine": engine} if engine else {})
    with writing(path):
        with publish(path / "1", "repository", config=config) as staging:
            (staging / "config.pbtxt").write_text("content")
        switch_to(path, 1)
    return path


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


ENDED = "python -m serving.watch: Triton: got it ended with exit status 0"
"""What the entry point says at the end of a server that only prints its options."""


def entry_point(
    store: Path, tmp_path: Path, gpus: str = "", *, tensorrt: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run deploy/triton.sh with a `tritonserver` that only prints its options."""
    programs, libraries = tmp_path / "bin", tmp_path / "lib"
    programs.mkdir()
    libraries.mkdir()
    program(programs / "tritonserver", 'printf "%s\\n" "$@"')
    program(programs / "python3", f'exec {shlex.quote(sys.executable)} "$@"')
    if gpus:
        program(programs / "nvidia-smi", f"printf {shlex.quote(gpus)}")
    if tensorrt:
        (libraries / "libnvinfer.so.10").symlink_to(rtx_library())
    return subprocess.run(
        ["sh", ROOT / "deploy/triton.sh", "--log-verbose=1"],
        cwd=ROOT,
        env={
            "PATH": f"{programs}:/usr/bin:/bin",
            "LD_LIBRARY_PATH": str(libraries),
            "PYTHONPATH": str(ROOT),
            "CPCSAM_MODELS": str(store),
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_entry_point_with_matching_engines_serves_the_current_version(tmp_path: Path) -> None:
    store = make_store(tmp_path / "models", "gpu", ENGINE)
    done = entry_point(store, tmp_path, "NVIDIA L4, 8.9\nNVIDIA L4, 8.9\n")
    assert ENDED in done.stderr
    options = done.stdout.splitlines()
    assert options[0] == f"--model-repository={store}/1"
    assert options[-1] == "--log-verbose=1"


def test_entry_point_with_cpu_graphs_needs_no_gpu(tmp_path: Path) -> None:
    done = entry_point(make_store(tmp_path / "models", "cpu"), tmp_path, tensorrt=False)
    assert ENDED in done.stderr


@pytest.mark.parametrize(
    ("engine", "gpus", "tensorrt", "message"),
    [
        (ENGINE, "", False, "engines of TensorRT 1.7.1, expected a repository for cpu"),
        (
            ENGINE | {"tensorrt": "10.13.3"},
            "NVIDIA L4, 8.9\n",
            True,
            "got engines of TensorRT 10.13.3, expected engines of TensorRT 1.7.1",
        ),
        (ENGINE, "", True, "got engines for GPUs of compute capability 8.9, and no GPU"),
        (
            ENGINE,
            "NVIDIA L4, 8.9\nNVIDIA A10G, 8.6\n",
            True,
            "got engines for GPUs of compute capability 8.9, expected 8.6, that of NVIDIA A10G",
        ),
    ],
)
def test_entry_point_with_other_engines_names_them(
    tmp_path: Path, engine: dict[str, str], gpus: str, tensorrt: bool, message: str
) -> None:
    store = make_store(tmp_path / "models", "gpu", engine)
    done = entry_point(store, tmp_path, gpus, tensorrt=tensorrt)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_entry_point_with_an_altered_version_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path / "models", "cpu")
    (store / "1/config.pbtxt").write_text("altered")
    done = entry_point(store, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "config.pbtxt: got sha256" in done.stderr


def test_check_machine_requires_every_gpu_to_match_engines(tmp_path: Path) -> None:
    version, manifest = open_repository(make_store(tmp_path / "models", "gpu", ENGINE))
    check_machine(version, manifest, tensorrt="1.7.1", gpus=[L4, L4])
    with pytest.raises(ServingError, match="expected 8.6, that of NVIDIA A10G"):
        check_machine(version, manifest, tensorrt="1.7.1", gpus=[L4, A10])


def test_check_machine_requires_a_gpu_for_the_cuda_provider_and_any_will_do(tmp_path: Path) -> None:
    version, manifest = open_repository(make_store(tmp_path / "models", "cuda"))
    check_machine(version, manifest, tensorrt=None, gpus=[A10])
    with pytest.raises(ServingError, match="CUDA provider, and no GPU, .* make repository"):
        check_machine(version, manifest, tensorrt=None, gpus=[])


def test_visible_gpus_come_from_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    program(tmp_path / "nvidia-smi", r'printf "NVIDIA L4, 8.9\nNVIDIA A10G, 8.6\n"')
    assert visible_gpus() == (L4, A10)
    program(tmp_path / "nvidia-smi", "echo Failed to initialize NVML; exit 9")
    with pytest.raises(CpcSamError, match="exit status 9 .Failed to initialize NVML"):
        visible_gpus()
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert visible_gpus() == ()


def test_tensorrt_version_comes_from_the_library() -> None:
    assert tensorrt_version([str(rtx_library())]) == "1.7.1"
    assert tensorrt_version(["libnone.so"]) is None
