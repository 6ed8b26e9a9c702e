from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

import pytest

from cpcsam.errors import ServingError
from serving.triton import install as triton_install
from serving.triton.install import STUB, find_triton


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
