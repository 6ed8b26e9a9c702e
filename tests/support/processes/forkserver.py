"""The one process that a session's child processes are forked from, so that they share imports.

Importing torch, peft and what they need takes longer than most tests.
"""

from __future__ import annotations

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.support.processes.preloaded"])
