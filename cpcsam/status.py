"""Errors and gRPC statuses: the one table that gateway and client share.

The gateway turns an error into its status, the client turns the status into the same error.
"""

from __future__ import annotations

from typing import Final

import grpc

from cpcsam.errors import ContractError, CpcSamError, ServingError

__all__ = [
    "AuthenticationError",
    "DeadlineError",
    "ForbiddenError",
    "FullError",
    "LimitError",
    "NotFoundError",
    "UnavailableError",
    "error_of_status",
    "status_of_error",
]


class LimitError(ServingError):
    """A request over one of the service's limits, or one too many at a time."""


class FullError(LimitError):
    """No place is free at the moment; trying again helps."""


class NotFoundError(ServingError):
    """What the request names is not there, or not any more."""


class AuthenticationError(ServingError):
    """The caller did not say who they are, or is not known."""


class ForbiddenError(ServingError):
    """The caller is known, and may not do this."""


class UnavailableError(ServingError):
    """The gateway or the inference server behind it cannot be reached; trying again may help."""


class DeadlineError(ServingError):
    """The answer was not there in the time that the caller gave."""


# The most specific class first: the first match wins.
_STATUSES: Final[tuple[tuple[type[CpcSamError], grpc.StatusCode], ...]] = (
    (ContractError, grpc.StatusCode.INVALID_ARGUMENT),
    (LimitError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (AuthenticationError, grpc.StatusCode.UNAUTHENTICATED),
    (ForbiddenError, grpc.StatusCode.PERMISSION_DENIED),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (DeadlineError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (ServingError, grpc.StatusCode.INTERNAL),
)


def status_of_error(error: CpcSamError) -> grpc.StatusCode:
    """Status that answers a request which failed with this error."""
    return next(
        (status for kind, status in _STATUSES if isinstance(error, kind)),
        grpc.StatusCode.INTERNAL,
    )


def error_of_status(status: grpc.StatusCode, message: str) -> CpcSamError:
    """Error that the caller of a request which failed with this status gets."""
    kind = next((kind for kind, code in _STATUSES if code is status), ServingError)
    known = any(code is status for _, code in _STATUSES)
    return kind(message if known else f"{status.name}: {message}")
