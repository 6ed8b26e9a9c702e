"""Single-flight: concurrent requests for the same key share one computation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from cpcsam.grpc_errors import DeadlineError, FullError, NotFoundError

__all__ = ["SingleFlight"]

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass
class _Flight(Generic[Value]):
    task: asyncio.Task[Value]
    waiting: int = 0


class SingleFlight(Generic[Key, Value]):
    """Runs at most one computation per key; to be used inside one event loop.

    A computation runs as long as any request waits for it, and is cancelled with the last.
    """

    def __init__(self) -> None:
        self._flights: dict[Key, _Flight[Value]] = {}

    def is_running(self, key: Key) -> bool:
        """Return whether a request for this key would join a running computation."""
        return self._running(key) is not None

    async def run(self, key: Key, compute: Callable[[], Awaitable[Value]]) -> Value:
        """Join the running computation of a key, or start it, and return its result.

        An error is raised in every waiting request, with an exception: if the request that started
        the computation ran out of its time or permits, or has only named its image, another starts
        it again with its own.

        Args:
            key: equal for requests that may share a computation.
            compute: starts the computation.
        """
        while True:
            flight = self._running(key)
            started = flight is None
            if flight is None:
                flight = self._start(key, compute)
            flight.waiting += 1
            try:
                # Shielded: a request that is cancelled leaves the computation to the others.
                return await asyncio.shield(flight.task)
            except (DeadlineError, FullError, NotFoundError):
                if started:
                    raise
            except asyncio.CancelledError:
                # The computation itself may have been cancelled, by the request that started it.
                caller = asyncio.current_task()
                if started or not flight.task.cancelled() or (caller and caller.cancelling()):
                    raise
            finally:
                flight.waiting -= 1
                if not flight.waiting and not flight.task.done():
                    flight.task.cancel()
                    # At once: a request that comes before the task ends must not join it.
                    self._end(key, flight)

    def _running(self, key: Key) -> _Flight[Value] | None:
        flight = self._flights.get(key)
        # One that is done stays until its callback runs; joined again, it would raise at once.
        return None if flight is None or flight.task.done() else flight

    def _start(self, key: Key, compute: Callable[[], Awaitable[Value]]) -> _Flight[Value]:
        async def run() -> Value:
            return await compute()

        flight = _Flight(asyncio.create_task(run()))
        self._flights[key] = flight
        flight.task.add_done_callback(lambda _: self._end(key, flight))
        return flight

    def _end(self, key: Key, flight: _Flight[Value]) -> None:
        """Forget a computation, so that the next request starts another."""
        if self._flights.get(key) is flight:
            del self._flights[key]
        if flight.task.done() and not flight.task.cancelled():
            flight.task.exception()  # else asyncio logs that it was never retrieved
