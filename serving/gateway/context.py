"""Who asks, and until when: what every step of a request needs to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic

from serving.gateway.auth.interceptor import Caller
from serving.gateway.scheduling.admission import Ticket

__all__ = ["Call"]


@dataclass(frozen=True)
class Call:
    """One call of the API.

    Attributes:
        request_id: as the caller chose it; shown in logs.
        caller: who asks.
        ticket: its place among the requests in work.
        deadline: when its answer is of no use any more, in seconds of `time.monotonic`.
    """

    request_id: str
    caller: Caller
    ticket: Ticket
    deadline: float

    @property
    def remaining_s(self) -> float:
        """Seconds left, to hand on; at least a millisecond, for 0 would mean no deadline."""
        return max(self.deadline - monotonic(), 1e-3)
