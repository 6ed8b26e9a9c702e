"""Graceful interruption by SIGINT or SIGTERM: finish the step, save the state, then end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from training.loop.distributed import process_count

__all__ = ["INTERRUPTED", "graceful_stop"]

INTERRUPTED: Final = 130
"""Exit code of an interrupted run."""


@contextmanager
def graceful_stop() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGINT or SIGTERM has arrived.

    A second signal ends a lone process at once. One of several processes may get the same signal
    twice, from the scheduler and through torchrun, so there a second signal means nothing.
    """
    received: list[int] = []

    def remember(number: int, _: object) -> None:
        received.append(number)
        if process_count() == 1:
            signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
