"""Memory of a server that handles large messages for weeks."""

from __future__ import annotations

import asyncio
import ctypes
from pathlib import Path

import pytest

from serving.common.memory import returning_freed_memory

BLOCK = 1 << 16
COUNT = 1024


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) << 12


async def test_freed_memory_returns_to_the_system_while_the_block_runs() -> None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        pytest.skip("this C library is not glibc")
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    blocks = [libc.malloc(BLOCK) for _ in range(COUNT)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK)
    full = resident_bytes()
    for block in blocks[:-1]:  # the last keeps glibc from returning those before it
        libc.free(block)
    async with returning_freed_memory(period_s=0.01):
        while resident_bytes() > full - BLOCK * COUNT // 2:
            await asyncio.sleep(0.01)
    libc.free(blocks[-1])


async def test_without_glibc_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.common.memory.ctypes.CDLL", lambda _: object())
    async with returning_freed_memory(period_s=0.01):
        await asyncio.sleep(0.03)
