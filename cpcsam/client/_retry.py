"""When a client tries a call again, and what it tells when it gives up."""

from __future__ import annotations

import random
import time
from typing import Any, Final

import grpc

from cpcsam.errors import CpcSamError
from cpcsam.grpc_errors import error_of_status

__all__ = ["Attempts"]

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0
PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"


class Attempts:
    """The attempts at one call: again and again while the gateway is away or full, within a time.

    Args:
        address: of the gateway, for messages.
        timeout_s: for all attempts together.
        retry: whether there may be more than one.
    """

    def __init__(self, address: str, timeout_s: float, retry: bool) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._retry = retry
        self._deadline = time.monotonic() + timeout_s
        self._pause_s = FIRST_PAUSE_S

    @property
    def remaining_s(self) -> float:
        """Seconds that are left for the next attempt."""
        return max(self._deadline - time.monotonic(), 1e-3)

    def pause_after(self, error: Any) -> float:
        """Seconds to wait before the next attempt.

        Args:
            error: the `grpc.RpcError` that ended the last one.

        Raises:
            CpcSamError: there is no sense in another attempt, or no time.
        """
        status, pushback_s = error.code(), _pushback_s(error)
        pause_s = self._pause_s * random.uniform(0.5, 1.0) + (pushback_s or 0)
        again = status is grpc.StatusCode.UNAVAILABLE or pushback_s is not None
        if not (again and self._retry) or time.monotonic() + pause_s >= self._deadline:
            raise self.failure(error) from error
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        return pause_s

    def failure(self, error: Any) -> CpcSamError:
        """What to tell of the `grpc.RpcError` that ended the last attempt."""
        status, message = error.code(), error.details() or ""
        if status is grpc.StatusCode.INTERNAL and ": got " not in message and self._is_over:
            # So gRPC's asyncio tells of a message that met the end of its stream's time.
            status, message = grpc.StatusCode.DEADLINE_EXCEEDED, ""
        return error_of_status(status, self._told(status, message), _pushback_s(error))

    @property
    def _is_over(self) -> bool:
        return time.monotonic() >= self._deadline

    def _told(self, status: grpc.StatusCode, message: str) -> str:
        """The gateway's own words; where gRPC itself gave up, words of the same form."""
        if ": got " in message:
            return message
        expected, fix = {
            grpc.StatusCode.UNAVAILABLE: (
                "a gateway that answers",
                "start it or correct HOST:PORT",
            ),
            grpc.StatusCode.DEADLINE_EXCEEDED: (
                f"an answer within {self._timeout_s:g} s",
                "allow more time",
            ),
        }.get(status, ("an answer", "see the gateway's log"))
        reason = message.rpartition(": ")[2] or status.name
        return f"{self._address}: got {reason}, expected {expected}; {fix}"


def _pushback_s(error: Any) -> float | None:
    """After how many seconds the gateway wants to be asked again, if it said so."""
    for name, value in error.trailing_metadata() or ():
        if name == PUSHBACK_KEY and str(value).isdigit():
            return int(value) / 1e3
    return None
