"""Order and grouping of all tests, for pytest-xdist's workers above all."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import Scheduling

# A shell that runs the tests in the background ignores SIGINT, and its children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: a worker has one core

gc.disable()  # until all modules are imported, which hold a million objects and no garbage

FOLDERS = ("integration", "conformance", "unit")
"""Longest first, after the slow files of all: no worker begins a long file when others are done."""


def pytest_configure(config: pytest.Config) -> None:
    """Let every worker collect another folder first, so that each compiles what others then read.

    Rewriting the assertions of all modules takes a third of the collection.
    """
    first = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % len(config.args)
    config.args[:] = config.args[first:] + config.args[:first]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of a real Triton, and let the slow files and the longest folders begin."""
    for item in items:
        if {"triton", "shipped"} & {*getattr(item, "fixturenames", ())}:
            item.add_marker(pytest.mark.triton)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    places = {path: (path not in slow, _folder(path), path) for path in {i.path for i in items}}
    items.sort(key=lambda item: places[item.path])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """Let the files of a group share a worker, so that a server starts once a session."""
    if config.getoption("dist") != "loadfile":
        return None
    from tests.support.grouping import GroupScheduling

    return GroupScheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Keep the modules out of all garbage collections, which take a tenth of the time with them."""
    gc.freeze()
    gc.enable()


def _folder(path: Path) -> int:
    return FOLDERS.index(path.relative_to(Path(__file__).parent).parts[0])
