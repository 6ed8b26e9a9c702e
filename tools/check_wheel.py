"""Install the wheel on every supported Python of this machine, and use the client there.

    python -m tools.check_wheel
    python -m tools.check_wheel --python python3.13

Builds the wheel, and for each interpreter from 3.10 to 3.14 on PATH or in pyenv makes a virtual
environment, installs the wheel bare and then with its extra `client`, imports the client both times
and runs `cpcsam --help`. Exit code 2 if any of them fails; missing interpreters are listed only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from cpcsam.commands import parser_of, run_command
from cpcsam.errors import ConfigError

__all__ = ["build_wheel", "check", "find_interpreters", "main"]

PROG: Final = "tools.check_wheel"
ROOT: Final = Path(__file__).resolve().parents[1]
SOURCES: Final = ("LICENSE", "README.md", "pyproject.toml", "cpcsam")
PYTHONS: Final = tuple(f"python3.{minor}" for minor in range(10, 15))

BARE: Final = """
from cpcsam.client import AsyncSegmentationClient, Prompt, SegmentationClient
with SegmentationClient("127.0.0.1:1", retry=False, timeout_s=5) as client:
    assert not client.healthy()
"""
WITH_EXTRA: Final = """
import numpy as np
import cpcsam.client
from cpcsam.client.masks import encode_run_lengths
names = [name for name in cpcsam.client.__all__ if getattr(cpcsam.client, name) is None]
assert not names, names
assert cpcsam.client.encode_image(np.zeros((4, 6, 3), np.uint8)).startswith(b"\\x89PNG")
square = np.eye(4, 6, dtype=bool)
mask = cpcsam.client.Mask((4, 6), encode_run_lengths(square), 1.0, (0, 0, 4, 4), 4)
assert (mask.array == square).all()
print(np.__version__)
"""


def build_wheel(folder: Path) -> Path:
    """Build the wheel from a copy of its sources, so that the checkout stays clean.

    Args:
        folder: existing and empty; the wheel is written below it.

    Raises:
        ConfigError: the build failed.
    """
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "dist")]
    _run([sys.executable, "-m", "pip", "wheel", *options, str(source)], "wheel")
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def find_interpreters(pythons: Sequence[str] = PYTHONS) -> dict[str, Path | None]:
    """Find interpreters on PATH and in pyenv; None for those that are missing.

    Args:
        pythons: names such as `python3.12`.
    """
    return {name: next(_working(name), None) for name in pythons}


def _working(name: str) -> Iterator[Path]:
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    on_path = [Path(folder) / name for folder in os.get_exec_path()]
    for python in (*on_path, *sorted(pyenv.glob(f"versions/*/bin/{name}"))):
        # A shim of pyenv exists for every version, and fails for those that are not selected.
        if (
            python.is_file()
            and not subprocess.run(
                [python, "-c", "import ensurepip, venv"], capture_output=True, check=False
            ).returncode
        ):
            yield python


def check(wheel: Path, python: Path, folder: Path) -> str:
    """Install and use the wheel in a new virtual environment of an interpreter.

    Args:
        wheel: file to install.
        python: interpreter.
        folder: of the virtual environment.

    Returns:
        The numpy version that was installed.

    Raises:
        ConfigError: a step failed.
    """
    venv_python = str(folder / "bin" / "python")
    install = [sys.executable, "-m", "pip", "--python", venv_python, "install", "--quiet"]
    # This environment's pip installs into all of them, so none needs its own.
    _run([str(python), "-m", "venv", "--without-pip", str(folder)], "venv")
    _run([*install, str(wheel)], "pip install cpcsam")
    # -I keeps the current folder and the user's packages out of the import path.
    _run([venv_python, "-I", "-c", BARE], "import of the client")
    _run([*install, f"{wheel}[client]"], "pip install cpcsam[client]")
    numpy_version = _run([venv_python, "-I", "-c", WITH_EXTRA], "client with its extra").strip()
    _run([str(folder / "bin" / "cpcsam"), "--help"], "cpcsam --help")
    return numpy_version


def _run(command: Sequence[str], step: str) -> str:
    # The checkout must not hide what the wheel lacks.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, env=environment, cwd="/", capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise ConfigError.of(
            step,
            got=f"exit code {done.returncode} ({lines[-1]})",
            expected="success",
            fix=f"run {' '.join(command[:4])} ...",
        )
    return done.stdout


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = parser_of(PROG, __doc__)
    text = "interpreter to check (python3.10 to python3.14); may be repeated"
    parser.add_argument("--python", action="append", metavar="NAME", help=text)
    return run_command(parser, _check_all, argv)


def _check_all(args: argparse.Namespace) -> int:
    interpreters = find_interpreters(args.python or PYTHONS)
    missing = [name for name, python in interpreters.items() if python is None]
    failed = False
    with (
        TemporaryDirectory(prefix="cpcsam-wheel.") as scratch,
        ThreadPoolExecutor() as pool,
    ):
        wheel = build_wheel(Path(scratch))
        checks = {
            name: pool.submit(check, wheel, python, Path(scratch) / name)
            for name, python in interpreters.items()
            if python is not None
        }
        for name, numpy_version in checks.items():
            try:
                print(f"{name}: {wheel.name} works (numpy {numpy_version.result()})", flush=True)
            except ConfigError as error:
                failed = True
                print(f"{name}: failed: {error}", flush=True)
    if missing:
        print(f"not on this machine, so not checked: {', '.join(missing)}")
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
