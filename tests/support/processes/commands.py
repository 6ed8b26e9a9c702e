"""Commands of the project run as `python -m` runs them, in processes that share their imports."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.processes.forkserver import CONTEXT

PATIENCE_S = 300


def run_module(words: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m WORDS` in the root of the checkout, forked from a process that knows torch.

    Args:
        words: the module, or a file that ends in .py, and its arguments.
        folder: an existing folder for what the command writes to stdout and stderr.
    """
    child = start_module(words, folder)
    child.join(PATIENCE_S)
    out, err = (file.read_text() for file in _files(folder))
    return subprocess.CompletedProcess(
        words, -1 if child.exitcode is None else child.exitcode, out, err
    )


def start_module(words: Sequence[str], folder: Path) -> BaseProcess:
    """Start what `run_module` runs, and return its process, whose files `folder` gets."""
    child = CONTEXT.Process(target=_run, args=(tuple(words), _files(folder)))
    child.start()
    return child


def _files(folder: Path) -> list[Path]:
    return [folder / name for name in ("stdout", "stderr")]


def _run(words: tuple[str, ...], files: Sequence[Path]) -> None:
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(ROOT)
    # Otherwise the command's workers would be the fork server's children, and outlive the command.
    multiprocessing.set_start_method("fork", force=True)
    sys.argv = list(words)
    if words[0].endswith(".py"):
        runpy.run_path(words[0], run_name="__main__")
    else:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
