"""`make export` in a child process that pauses, and can be killed, at every change in a folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cpcsam.model.build_sam import ENCODERS
from export.accuracy import parity_grid, self_prompts
from tests.support.model_factory import shallow_encoder
from tests.support.paths import ROOT
from tests.support.processes.forkserver import CONTEXT

CHANGES = {
    "open",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "shutil.copyfile",
}
"""Audit events of Python before a name in the file system changes or a file is written."""
DESTINATION_SECOND = {"os.rename", "os.symlink", "shutil.copyfile"}
TIMEOUT_S = 600


@dataclass(frozen=True)
class Change:
    """A change in the folder that is about to happen.

    Attributes:
        event: Python's audit event.
        path: the name that changes, relative to the folder; the new one of a rename.
    """

    event: str
    path: str


@dataclass(frozen=True)
class FaultPoint:
    """A named moment of the export: the first change of a kind at a path.

    Attributes:
        event: Python's audit event.
        pattern: of the path, relative to the folder, as in `fnmatch`.
    """

    event: str
    pattern: str

    def matches(self, change: Change) -> bool:
        """Return whether a change is of this kind and at this path."""
        return change.event == self.event and fnmatchcase(change.path, self.pattern)


def export_commands(run: Path, *options: str) -> list[list[str]]:
    """Return the modules that `make export` runs, each with its arguments."""
    planned = subprocess.run(
        ["make", "--dry-run", "export", f"RUN={run}", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split() for line in re.findall(r"python -m (export\..*)", planned.stdout)]


def run_export(
    folder: Path,
    commands: Sequence[Sequence[str]],
    before_change: Callable[[Change], object] | None = None,
    kill_at: FaultPoint | None = None,
) -> int | None:
    """Run the commands in a folder, in a child process.

    Args:
        folder: working directory of the commands.
        commands: from `export_commands`.
        before_change: called at every change in the folder, while the child waits.
        kill_at: the child is killed with SIGKILL just before this change.

    Returns:
        The exit code, -SIGKILL if killed.
    """
    ours, theirs = CONTEXT.Pipe()
    child = CONTEXT.Process(target=_export, args=(folder, commands, theirs))
    child.start()
    theirs.close()
    while ours.poll(TIMEOUT_S):
        try:
            change = ours.recv()
        except EOFError:
            break
        if kill_at is not None and kill_at.matches(change):
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            break
        if before_change is not None:
            before_change(change)
        ours.send(None)
    child.join(TIMEOUT_S)
    return child.exitcode


def _export(folder: Path, commands: Sequence[Sequence[str]], parent: Connection) -> None:
    os.chdir(folder)
    # These tests are about files; two blocks, a single shape and few masks suffice.
    ENCODERS["vit_t"] = shallow_encoder("vit_t")
    parity_grid.BATCHES = {256: (1,)}  # type: ignore[misc]
    parity_grid.PROMPTS = parity_grid.POINTS = (1,)  # type: ignore[misc]
    self_prompts.CLICKS_A_SIDE = 2  # type: ignore[misc]

    def wait_for_parent(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES and (path := _changed_path(event, arguments)) is not None:
            if folder in path.parents:
                parent.send(Change(event, str(path.relative_to(folder))))
                parent.recv()

    sys.addaudithook(wait_for_parent)
    codes = [import_module(module).main(arguments) for module, *arguments in commands]
    os._exit(max(codes))


def _changed_path(event: str, arguments: tuple[Any, ...]) -> Path | None:
    """Return the absolute path of the name that changes; None for a file that is only read."""
    name = arguments[event in DESTINATION_SECOND]
    if event == "open" and (isinstance(name, int) or not arguments[2] & (os.O_WRONLY | os.O_RDWR)):
        return None
    # shutil removes folders by names relative to open descriptors.
    relative_to = arguments[-1] if event in ("os.remove", "os.rmdir") else -1
    base = os.readlink(f"/proc/self/fd/{relative_to}") if relative_to >= 0 else os.getcwd()
    return Path(base, os.fsdecode(name))
