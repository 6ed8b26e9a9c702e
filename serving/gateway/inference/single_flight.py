"""One computation for simultaneous equal requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from cpcsam.grpc_errors import DeadlineError, FullError

__all__ = ["SingleFlight"]

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass
class _Flight(Generic[Value]):
    task: asyncio.Task[Value]
    waiting: int = 0


class SingleFlight(Generic[Key, Value]):
    """Runs computations by key; used inside one event loop.

    A computation goes on as long as anybody waits for it, whoever began it.
    """

    def __init__(self) -> None:
        self._flights: dict[Key, _Flight[Value]] = {}

    def is_running(self, key: Key) -> bool:
        """Whether a request for this key would join another one."""
        return key in self._flights

    async def run(self, key: Key, compute: Callable[[], Awaitable[Value]]) -> Value:
        """Join the computation of this key, or begin it.

        It fails for all who wait, but for one case: where it ran out of the time or the room of
        the caller who began it, the others begin anew with their own.

        Args:
            key: equal for requests that may share a computation.
            compute: begins it.
        """
        while True:
            flight = self._flights.get(key)
            mine = flight is None
            if flight is None:
                flight = self._begin(key, compute)
            flight.waiting += 1
            try:
                return await asyncio.shield(flight.task)
            except (DeadlineError, FullError):
                if mine:
                    raise
            except asyncio.CancelledError:
                # A computation may also break off because of the caller who began it.
                caller = asyncio.current_task()
                if mine or not flight.task.cancelled() or (caller and caller.cancelling()):
                    raise
            finally:
                flight.waiting -= 1
                if not flight.waiting and not flight.task.done():
                    flight.task.cancel()
                    self._end(key, flight)

    def _begin(self, key: Key, compute: Callable[[], Awaitable[Value]]) -> _Flight[Value]:
        async def work() -> Value:
            return await compute()

        flight = _Flight(asyncio.create_task(work()))
        self._flights[key] = flight
        flight.task.add_done_callback(lambda _: self._end(key, flight))
        return flight

    def _end(self, key: Key, flight: _Flight[Value]) -> None:
        """Let the next request begin anew."""
        if self._flights.get(key) is flight:
            del self._flights[key]
        if flight.task.done() and not flight.task.cancelled():
            flight.task.exception()  # else asyncio complains that nobody asked for it
