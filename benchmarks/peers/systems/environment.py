"""Environment of the peers: their pinned packages on top of this project's own."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.errors import ConfigError

__all__ = ["REQUIREMENTS", "peers_python"]

REQUIREMENTS: Final = Path(__file__).with_name("requirements.txt")
MARKER: Final = ".installed"


def peers_python(folder: Path) -> Path:
    """Install LitServe and Locust into an environment, unless they are there.

    It reads torch and everything else from this interpreter's packages by a `.pth` file, so that
    both run the same torch and nothing of this project's environment changes.

    Args:
        folder: of the environment.

    Returns:
        Its interpreter.

    Raises:
        ConfigError: the packages cannot be installed.
    """
    # Relative and unresolved: its links lead to the interpreter outside of the environment.
    python = folder / "bin/python"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    marker = folder / MARKER
    if marker.is_file() and marker.read_text() == wanted:
        return python
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    (packages,) = (folder / "lib").glob("python3*/site-packages")
    (packages / "shared.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    # Without dependencies: the file names all of them, and the others are shared.
    options = ["--quiet", "--no-deps", "--requirement", str(REQUIREMENTS)]
    _run([str(python), "-m", "pip", "install", *options])
    write_atomic(marker, wanted.encode())
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise ConfigError.of(
            "the peers' environment",
            got=last,
            expected="an installation from PyPI",
            fix="check the network, or leave out litserve by --systems",
        )
