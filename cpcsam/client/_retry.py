"""Retries with jittered exponential backoff and server pushback, bounded by a deadline.

Tried instead: gRPC's `retryPolicy` clamps `maxAttempts` at 5, so it gives up within a second on a
gateway that restarts, and it retries RESOURCE_EXHAUSTED without pushback, which is permanent here.
`google.api_core.retry` ignores pushback and installs requests, google-auth and OpenTelemetry.
"""

from __future__ import annotations

import random
import time
from numbers import Real
from typing import Any, Final

import grpc

from cpcsam.errors import ConfigError, CpcSamError
from cpcsam.grpc_errors import error_of_status

__all__ = ["INITIAL_BACKOFF_S", "MAX_BACKOFF_S", "Attempts", "checked_timeout"]

INITIAL_BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 2.0
MAX_TIMEOUT_S: Final = 1e9
"""30 years; gRPC's deadlines overflow at ten times that, and calls fail at once."""
PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
NOT_CONNECTED: Final = ("failed to connect", "errors resolving", "DNS resolution failed")
"""Beginnings of gRPC's message where a call never left the client."""
WRONG_NAME: Final = "Hostname Verification"
"""Part of gRPC's message where the gateway's certificate is for another name."""


def checked_timeout(timeout_s: float) -> float:
    """Return a time limit in seconds.

    Raises:
        ConfigError: it is no number above 0, or higher than gRPC takes.
    """
    if not isinstance(timeout_s, Real) or not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise ConfigError.of(
            "timeout_s",
            got=timeout_s,
            expected=f"seconds above 0, at most {MAX_TIMEOUT_S:,.0f}",
            fix="correct it",
        )
    return float(timeout_s)


class Attempts:
    """Retry state of a call: retried while the gateway is unreachable or full, until a deadline.

    Args:
        address: of the gateway, for messages.
        timeout_s: time limit of all attempts together, in seconds.
        retry: whether failures are retried at all.
        repeatable: False for a call that must not be done twice: it is not retried once it may
            have reached the gateway and no answer tells.
    """

    def __init__(
        self, address: str, timeout_s: float, retry: bool, *, repeatable: bool = True
    ) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._retry = retry
        self._repeatable = repeatable
        self._deadline = time.monotonic() + timeout_s
        self._backoff_s = INITIAL_BACKOFF_S

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline, at least a millisecond."""
        return max(self._deadline - time.monotonic(), 1e-3)

    def backoff_after(self, error: Any) -> float:
        """Return the seconds to wait before the next attempt.

        Args:
            error: the `grpc.RpcError` of the last attempt.

        Raises:
            CpcSamError: the failure is permanent, or the wait would pass the deadline.
        """
        status, pushback_s = error.code(), _pushback_s(error)
        # Jitter spreads clients that failed together.
        backoff_s = self._backoff_s * random.uniform(0.5, 1.0) + (pushback_s or 0)
        retryable = status is grpc.StatusCode.UNAVAILABLE or pushback_s is not None
        retryable = retryable and not self._may_be_done(error)
        if not (retryable and self._retry) or time.monotonic() + backoff_s >= self._deadline:
            raise self.failure(error) from error
        self._backoff_s = min(2 * self._backoff_s, MAX_BACKOFF_S)
        return backoff_s

    def failure(self, error: Any) -> CpcSamError:
        """Convert the `grpc.RpcError` of the last attempt to the project's error."""
        status, message = error.code(), error.details() or ""
        if self._may_be_done(error):
            message = (
                f"{self._address}: got {message}, expected an answer; "
                "look whether it was done before you repeat it"
            )
        if status is grpc.StatusCode.INTERNAL and ": got " not in message and self._is_over:
            # gRPC's asyncio reports so a message that met the end of its stream's time.
            status, message = grpc.StatusCode.DEADLINE_EXCEEDED, ""
        return error_of_status(status, self._message(status, message), _pushback_s(error))

    def _may_be_done(self, error: Any) -> bool:
        """Return whether the call may have been done, and must not be done again."""
        message = error.details() or ""
        answered = ": got " in message or _pushback_s(error) is not None
        unknown = error.code() is grpc.StatusCode.UNAVAILABLE and not answered
        return not self._repeatable and unknown and not message.startswith(NOT_CONNECTED)

    @property
    def _is_over(self) -> bool:
        return time.monotonic() >= self._deadline

    def _message(self, status: grpc.StatusCode, message: str) -> str:
        """Return the gateway's message, or build one of the same form for gRPC's own failures."""
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
        if WRONG_NAME in message:
            expected = "a certificate that names this host"
            fix = "give a name that it has by tls_name (--tls-name), or correct HOST:PORT"
        reason = message.rpartition(": ")[2] or status.name
        return f"{self._address}: got {reason}, expected {expected}; {fix}"


def _pushback_s(error: Any) -> float | None:
    """Seconds that the gateway asks to wait before a retry, from the trailing metadata, or None."""
    for name, value in error.trailing_metadata() or ():
        if name == PUSHBACK_KEY and str(value).isdigit():
            return int(value) / 1e3
    return None
