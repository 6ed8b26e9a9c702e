"""Heartbeat of a program over a pipe, by which its supervisor notices that it stands still."""

from __future__ import annotations

import asyncio
import os
import select
from contextlib import suppress
from time import monotonic
from typing import Final

__all__ = ["Heartbeat", "wait_for_silence"]

PERIOD_S: Final = 0.5


class Heartbeat:
    """Sender of a heartbeat.

    Args:
        descriptor: of a pipe that the supervisor reads; None sends nothing.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._due = 0.0
        if descriptor is not None:
            os.set_blocking(descriptor, False)

    def beat(self) -> None:
        """Show that the program runs; to be called more often than twice a second."""
        if self._descriptor is None or monotonic() < self._due:
            return
        self._due = monotonic() + PERIOD_S
        with suppress(OSError):  # nobody reads it any more
            os.write(self._descriptor, b".")

    async def beat_on(self) -> None:
        """Beat for as long as the running event loop does, until the task is cancelled."""
        while True:
            self.beat()
            await asyncio.sleep(PERIOD_S / 2)


def wait_for_silence(descriptor: int, start_s: float, silence_s: float) -> bool:
    """Read a heartbeat until it stays away.

    Args:
        descriptor: of the pipe.
        start_s: longest time until the first beat.
        silence_s: longest time between beats.

    Returns:
        True if it stayed away for so long, False if the pipe's last writer ended.
    """
    limit_s = start_s
    while select.select([descriptor], [], [], limit_s)[0]:
        if not os.read(descriptor, 1 << 12):
            return False
        limit_s = silence_s
    return True
