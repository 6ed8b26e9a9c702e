"""Memory of a server that handles large messages for weeks."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from serving.common.memory import reuse_freed_memory

BLOCK = 1 << 16
COUNT = 1024


@pytest.fixture
def libc() -> Any:
    library = ctypes.CDLL(None)
    if not hasattr(library, "malloc_trim"):
        pytest.skip("this C library is not glibc")
    library.malloc.restype = ctypes.c_void_p
    library.free.argtypes = [ctypes.c_void_p]
    return library


@pytest.fixture
def thread(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """In place of a thread that would run until the tests end."""
    threads = MagicMock()
    monkeypatch.setattr("serving.common.memory.threading.Thread", threads)
    return threads


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) << 12


class EndedError(Exception):
    """The thread is to end with the test."""


async def test_freed_memory_returns_to_the_system(
    libc: Any, thread: MagicMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def sleep(seconds: float) -> None:
        if ended.wait(seconds):
            raise EndedError

    reuse_freed_memory(period_s=0.01)
    thread.return_value.start.assert_called_once_with()
    monkeypatch.undo()
    monkeypatch.setattr("serving.common.memory.time.sleep", sleep)
    running = asyncio.create_task(asyncio.to_thread(thread.call_args.kwargs["target"]))
    blocks = [libc.malloc(BLOCK) for _ in range(COUNT)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK)
    full = resident_bytes()
    for block in blocks[:-1]:  # the last keeps glibc from returning those before it
        libc.free(block)
    while resident_bytes() > full - BLOCK * COUNT // 2:
        await asyncio.sleep(0.01)
    libc.free(blocks[-1])
    ended.set()
    with pytest.raises(EndedError):
        await running


def test_blocks_are_used_again(libc: Any, thread: MagicMock) -> None:
    reuse_freed_memory()
    block = libc.malloc(64 * BLOCK)
    ctypes.memset(block, 1, 64 * BLOCK)
    libc.free(block)
    before = minor_faults()
    block = libc.malloc(64 * BLOCK)
    ctypes.memset(block, 1, 64 * BLOCK)
    libc.free(block)
    assert minor_faults() - before < 64 * BLOCK // 4096 // 2


def minor_faults() -> int:
    return int(Path("/proc/thread-self/stat").read_text().rpartition(")")[2].split()[7])


def test_without_glibc_nothing_is_done(thread: MagicMock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.common.memory.ctypes.CDLL", lambda _: object())
    reuse_freed_memory()
    thread.assert_not_called()
