"""Check the prerequisites of `make` on this machine, and report all missing ones with their fix.

    python3 -m tools.preflight --python python3.11

Runs before anything is installed, so it only needs the standard library of any Python from 3.7.
Exit code 0: nothing is missing; 2: missing prerequisites are listed on stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = [
    "check_disk",
    "check_glibc",
    "check_interpreter",
    "check_platform",
    "check_programs",
    "main",
]

PROGRAMS = ("git", "make")
MIN_GLIBC = (2, 35)
MIN_FREE_GB = 10.0
PYTHON_VERSIONS = ((3, 11), (3, 12))
"""Versions for which the wheel of the Triton server has a stub of its Python backend."""

PROBE = """
import ctypes, importlib.util, json, pathlib, sys, sysconfig
name = "libpython{}.{}.so.1.0".format(*sys.version_info)
folder = pathlib.Path(sysconfig.get_config_var("LIBDIR") or "/nonexistent")
found = (folder / name).is_file()
if not found:
    try:
        found = bool(ctypes.CDLL(name))
    except OSError:
        pass
venv = all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))
print(json.dumps(dict(version=sys.version_info[:3], shared_library=found, venv=venv)))
"""


def check_platform(system: str, machine: str) -> list[str]:
    """Check for Linux on x86-64, the only platform of the Triton server's wheel."""
    if (system, machine) == ("Linux", "x86_64"):
        return []
    return [f"platform: got {system} {machine}, expected Linux x86_64; use another machine"]


def check_glibc(version: str | None) -> list[str]:
    """Check that the C library is recent enough for the Triton server.

    Args:
        version: such as `2.36`; None if the C library is not glibc.
    """
    wanted = ".".join(map(str, MIN_GLIBC))
    if version is not None and tuple(map(int, version.split(".")[:2])) >= MIN_GLIBC:
        return []
    got = f"glibc {version}" if version else "another C library"
    return [f"C library: got {got}, expected glibc {wanted} or later; for example Debian 12"]


def check_programs(search_path: str) -> list[str]:
    """Check that each required program is on the search path."""
    return [
        f"{name}: not found; on Debian and Ubuntu: apt-get install {name}"
        for name in PROGRAMS
        if shutil.which(name, path=search_path) is None
    ]


def check_interpreter(python: str) -> list[str]:
    """Check the version, venv module and shared library of a Python interpreter.

    Args:
        python: name or path of the interpreter for the virtual environment.
    """
    supported = " or ".join("{}.{}".format(*version) for version in PYTHON_VERSIONS)
    install = (
        "on Debian 12: apt-get install python3.11 python3.11-venv libpython3.11; elsewhere: "
        "PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install 3.11; then make PYTHON=PATH"
    )
    try:
        answer = subprocess.run(
            [python, "-c", PROBE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
        )
        probe = json.loads(answer.stdout.decode())
    except (OSError, subprocess.CalledProcessError, ValueError):
        return [f"Python {supported}: {python} does not run; {install}"]
    if tuple(probe["version"][:2]) not in PYTHON_VERSIONS:
        got = ".".join(map(str, probe["version"]))
        return [f"Python: got {got} as {python}, expected {supported}; {install}"]
    name = "python{}.{}".format(*probe["version"])
    problems = []
    if not probe["venv"]:
        problems.append(f"Python's venv module: not found; apt-get install {name}-venv")
    if not probe["shared_library"]:
        problems.append(
            f"lib{name}.so.1.0: not found, and the Triton server's Python backend links against "
            f"it; on Debian and Ubuntu: apt-get install lib{name}; with pyenv: build with "
            "PYTHON_CONFIGURE_OPTS=--enable-shared"
        )
    return problems


def check_disk(free_gb: float) -> list[str]:
    """Check that the installation fits on the disk.

    Args:
        free_gb: free gigabytes, including those of an earlier installation.
    """
    if free_gb >= MIN_FREE_GB:
        return []
    return [f"disk: got {free_gb:.1f} GB free, expected {MIN_FREE_GB:.0f} GB; free some space"]


def main(argv: list[str] | None = None) -> int:
    """Check this machine, print missing prerequisites to stderr, and return the exit code."""
    parser = argparse.ArgumentParser(description="Check the prerequisites of `make`.")
    parser.add_argument("--python", default="python3.11", help="interpreter of the environment")
    parser.add_argument("--venv", type=Path, default=Path(".venv"), help="its folder")
    options = parser.parse_args(argv)
    problems = [
        *check_platform(platform.system(), platform.machine()),
        *check_glibc(_glibc_version()),
        *check_programs(os.environ.get("PATH", os.defpath)),
        *check_interpreter(options.python),
        *check_disk(_free_gb(options.venv)),
    ]
    for problem in problems:
        print(f"preflight: {problem}", file=sys.stderr)
    return 2 if problems else 0


def _glibc_version() -> str | None:
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
    except (AttributeError, OSError, ValueError):
        return None
    return version if name == "glibc" else None


def _free_gb(venv: Path) -> float:
    parent = venv.absolute().parent
    while not parent.exists():
        parent = parent.parent
    # lstat, since links lead to the system's Python, outside the environment.
    taken = sum(file.lstat().st_size for file in venv.rglob("*")) if venv.exists() else 0
    return (shutil.disk_usage(parent).free + taken) / 1e9


if __name__ == "__main__":
    sys.exit(main())
