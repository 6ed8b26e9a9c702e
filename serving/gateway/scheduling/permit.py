"""Permit: the claim of one request on the gateway's capacity."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from serving.gateway.scheduling.call_times import CallKind

__all__ = ["Permit", "Release"]


class Permit:
    """Claim of one request on the gateway's capacity, and its state in the queue.

    Args:
        client: key of fairness: all requests of a client share alike.
        is_patient: the request waits for its place instead of being refused.

    Attributes:
        turns: granted so far.
        claimed: calls to Triton that the request is going to make, as far as it told.
        is_accepted: the request has told them, and they can be answered in time.
        is_dropped: another client's request took its place.
    """

    def __init__(self, client: str, *, is_patient: bool = False) -> None:
        self.client = client
        self.is_patient = is_patient
        self.turns = 0
        self.is_dropped = False
        self.claimed: Counter[CallKind] = Counter()
        self.is_accepted = False
        self._queueing: asyncio.Timeout | None = None

    @property
    def is_waiting(self) -> bool:
        """True while the request waits for its first turn."""
        return self._queueing is not None

    @contextmanager
    def queueing(self, timeout: asyncio.Timeout) -> Iterator[None]:
        """Mark the request as waiting while the block runs; `drop` expires the timeout."""
        self._queueing = timeout
        try:
            yield
        finally:
            self._queueing = None

    def drop(self) -> None:
        """End the wait now, as if its time were over."""
        assert self._queueing is not None
        self.is_dropped = True
        self._queueing.reschedule(asyncio.get_running_loop().time())


class Release(Protocol):
    """Ends a turn."""

    def __call__(self, *, is_answered: bool | None = True) -> None:
        """End it, once.

        Args:
            is_answered: whether the call has an answer; None if Triton could give none, so that
                the time tells nothing.
        """
