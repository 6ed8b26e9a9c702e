"""Termination signals of commands that serve until they are stopped."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["until_interrupted"]


@contextmanager
def until_interrupted() -> Iterator[None]:
    """Run the block until Ctrl-C or SIGTERM; both unwind it and end it without an error."""
    signal.signal(signal.SIGTERM, _interrupt)
    with suppress(KeyboardInterrupt):
        yield


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
