"""Installation of a local Triton from the wheel `nvidia-pytriton`.

The wheel carries NVIDIA's tritonserver; only its files are used. Its Python backend must lie in the
folder of the stub of this Python version, and the stub loads Python's own shared library, so both
are placed in a folder of the user's cache.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cpcsam.errors import CpcSamError, ServingError
from serving.supervision.allocator import allocator_environment

__all__ = ["TritonInstall", "find_triton"]

WHEEL: Final = "nvidia-pytriton"
MIN_GLIBC: Final = (2, 35)
PYTHON_VERSION: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
LIBPYTHON: Final = f"libpython{PYTHON_VERSION}.so.1.0"
STUB: Final = "triton_python_backend_stub"


@dataclass(frozen=True)
class TritonInstall:
    """Paths needed to start Triton.

    Attributes:
        server: the tritonserver binary.
        backends: for --backend-directory.
        caches: for --cache-directory.
        libraries: for LD_LIBRARY_PATH of that process, in order.
    """

    server: Path
    backends: Path
    caches: Path
    libraries: tuple[Path, ...]

    @property
    def options(self) -> dict[str, str]:
        """Options that tell the server where its parts are."""
        return {"--backend-directory": str(self.backends), "--cache-directory": str(self.caches)}

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """Return an environment in which the server finds its libraries and this Python.

        Args:
            base: environment to extend.
        """
        libraries = [*map(str, self.libraries), base.get("LD_LIBRARY_PATH", "")]
        # The Python backend derives its home from the first python3 of PATH.
        executables = [str(Path(sys.executable).parent), base.get("PATH", os.defpath)]
        return {
            **allocator_environment(base),
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
            "PATH": os.pathsep.join(executables),
        }


def find_triton(cache: Path | None = None) -> TritonInstall:
    """Locate Triton in the installed wheel and lay out its Python backend.

    Args:
        cache: folder for the backend; None takes the user's cache folder.

    Raises:
        ServingError: an unsupported machine, or the wheel, libpython or numpy is missing or
            incompatible.
    """
    _check_machine()
    _check_numpy()
    site, version = _find_wheel()
    wheel = site / "pytriton" / "tritonserver"
    stub = wheel / "python_backend_stubs" / PYTHON_VERSION / STUB
    server = wheel / "bin" / "tritonserver"
    for file in (server, stub, wheel / "backends" / "python"):
        if not file.exists():
            raise ServingError.of(
                str(file),
                got="no such file",
                expected=f"a part of {WHEEL} {version} for Python {PYTHON_VERSION}",
                fix=f"pip install --no-deps --force-reinstall {WHEEL}",
            )
    layout = _lay_out(wheel, stub, _shared_libpython(), cache or _user_cache(), version)
    install = TritonInstall(
        server=server,
        backends=layout / "backends",
        caches=wheel / "caches",
        libraries=(layout / "lib", site / "nvidia_pytriton.libs"),
    )
    _check_libraries(install)
    return install


def _check_machine() -> None:
    name, version = platform.libc_ver()
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if (sys.platform, platform.machine()) != ("linux", "x86_64") or name != "glibc":
        raise _missing("this machine", f"{sys.platform} {platform.machine()} {name}".strip())
    if numbers < MIN_GLIBC:
        raise _missing("the C library", f"glibc {version}")


def _missing(what: str, got: str) -> CpcSamError:
    return ServingError.of(
        what,
        got=got,
        expected=f"Linux x86-64 with glibc {'.'.join(map(str, MIN_GLIBC))} or later",
        fix="use Debian 12, Ubuntu 22.04 or later, or run Triton in a container",
    )


def _check_numpy() -> None:
    version = importlib.metadata.version("numpy")
    if int(version.split(".")[0]) >= 2:
        raise ServingError.of(
            "numpy",
            got=version,
            expected="a version below 2, which Triton's Python backend needs",
            fix="pip install 'numpy<2'",
        )


def _find_wheel() -> tuple[Path, str]:
    """Return the folder that the wheel is installed in, and its version."""
    try:
        wheel = importlib.metadata.distribution(WHEEL)
    except importlib.metadata.PackageNotFoundError as error:
        raise ServingError.of(
            WHEEL,
            got="not installed",
            expected="the wheel that carries tritonserver",
            fix=f"pip install --no-deps {WHEEL}",
        ) from error
    return Path(str(wheel.locate_file(""))).resolve(), wheel.version


def _shared_libpython() -> Path | None:
    """Return this Python's shared library; None without one, and the system's is loaded."""
    path = Path(sysconfig.get_config_var("LIBDIR") or "/nonexistent") / LIBPYTHON
    return path.resolve() if path.is_file() else None


def _check_libraries(install: TritonInstall) -> None:
    """Resolve the shared libraries of server and stub with the dynamic linker.

    Raises:
        ServingError: some are missing; they are named.
    """
    path = os.pathsep.join(map(str, install.libraries))
    command = ["ldd", str(install.server), str(install.backends / "python" / STUB)]
    resolved = subprocess.run(
        command, env={**os.environ, "LD_LIBRARY_PATH": path}, capture_output=True, text=True
    ).stdout
    missing = sorted(set(re.findall(r"(\S+) => not found", resolved)))
    if LIBPYTHON in missing:
        raise ServingError.of(
            LIBPYTHON,
            got="neither with this Python nor among the system's libraries",
            expected="Python's shared library, which Triton's Python backend loads",
            fix=f"apt-get install libpython{PYTHON_VERSION}, or use a Python built with it",
        )
    if missing:
        raise ServingError.of(
            ", ".join(missing),
            got="no such library",
            expected="the shared libraries of tritonserver",
            fix="install them (Debian: libstdc++6, zlib1g, libexpat1)",
        )


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cpcsam"


def _lay_out(wheel: Path, stub: Path, libpython: Path | None, cache: Path, version: str) -> Path:
    """Copy backend and stub, and link libpython, to a folder named by a digest of their sources."""
    # Reinstalled wheels keep their paths, hence the modification times.
    sources = [f"{path}:{path.stat().st_mtime_ns}" for path in (wheel, stub, libpython) if path]
    digest = hashlib.sha256("\n".join(sources).encode()).hexdigest()[:12]
    layout = cache / f"triton-{version}-{digest}"
    if layout.is_dir():
        return layout
    try:
        cache.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=cache, prefix=".triton."))
    except OSError as error:
        raise ServingError.of(
            str(cache),
            got=f"a folder that cannot be written ({error.strerror})",
            expected="a place for Triton's backend",
            fix="set XDG_CACHE_HOME to a writable folder",
        ) from error
    try:
        shutil.copytree(wheel / "backends", staging / "backends")
        shutil.copy2(stub, staging / "backends" / "python" / STUB)
        (staging / "backends" / "python" / STUB).chmod(0o755)
        (staging / "lib").mkdir()
        if libpython is not None:
            (staging / "lib" / LIBPYTHON).symlink_to(libpython)
        staging.chmod(0o755)
        staging.rename(layout)  # atomic: other processes see all of it or nothing
    except OSError:
        # Another process may have laid out the same folder meanwhile.
        if not layout.is_dir():
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return layout
