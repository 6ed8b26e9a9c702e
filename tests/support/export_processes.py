"""`make export` in a child process that kills itself at a change of a name in the file system."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from export.accuracy import parity_grid as grid
from tests.support.paths import ROOT

CONTEXT = multiprocessing.get_context("forkserver")  # imports torch once for all children
CONTEXT.set_forkserver_preload(
    ["tests.support.export_processes", "export.to_onnx", "export.repository"]
)
CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "shutil.copyfile"}
"""Audit events of Python before a name in the file system changes or a file is copied."""
PATIENCE_S = 600


def export_commands(run: Path, *options: str) -> list[list[str]]:
    """The modules that `make export` runs and their arguments, as make tells them."""
    told = subprocess.run(
        ["make", "--dry-run", "export", f"RUN={run}", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [words.split() for words in re.findall(r"python -m (export\..*)", told.stdout)]


def export_and_kill(folder: Path, commands: Sequence[Sequence[str]], change: int) -> int | None:
    """Run the commands in a folder, killed just before the n-th change of a name below it.

    Returns:
        The exit code; the number of changes is then in `changes` beside the folder.
    """
    child = CONTEXT.Process(target=_export, args=(folder, commands, change))
    child.start()
    child.join(PATIENCE_S)
    return child.exitcode


def _export(folder: Path, commands: Sequence[Sequence[str]], change: int) -> None:
    os.chdir(folder)
    # The grid is not what this is about.
    grid.BATCHES, grid.PROMPTS, grid.POINTS = {256: (1,)}, (1,), (1,)  # type: ignore[misc]
    seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in CHANGES and folder in _changed(event, arguments).parents:
            seen += 1
            if seen == change:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    codes = [import_module(module).main(words) for module, *words in commands]
    folder.with_name("changes").write_text(str(seen))
    os._exit(max(codes))


def _changed(event: str, arguments: tuple[Any, ...]) -> Path:
    """The name that changes; `shutil` removes folders by names relative to open ones."""
    path = Path(os.fsdecode(arguments[event in ("os.symlink", "shutil.copyfile")]))
    relative_to = arguments[-1] if event in ("os.remove", "os.rmdir") else -1
    base = os.readlink(f"/proc/self/fd/{relative_to}") if relative_to >= 0 else os.getcwd()
    return Path(base, path)
