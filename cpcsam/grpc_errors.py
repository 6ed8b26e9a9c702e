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
    "ExistsError",
    "ForbiddenError",
    "FullError",
    "LimitError",
    "NotFoundError",
    "PreconditionError",
    "UnavailableError",
    "error_of_status",
    "status_of_error",
]


class LimitError(ServingError):
    """A request over one of the service's limits, or one too many at a time."""


class FullError(LimitError):
    """No place is free at the moment; trying again helps.

    Attributes:
        retry_s: after how many seconds.
    """

    retry_s: float = 1.0


class NotFoundError(ServingError):
    """What the request names is not there, or not any more."""


class ExistsError(ServingError):
    """What is to be made is there already."""


class PreconditionError(ServingError):
    """The request is good, but the server is not in a state to fulfil it."""


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
    (ExistsError, grpc.StatusCode.ALREADY_EXISTS),
    (PreconditionError, grpc.StatusCode.FAILED_PRECONDITION),
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


def error_of_status(
    status: grpc.StatusCode, message: str, retry_s: float | None = None
) -> CpcSamError:
    """Error that the caller of a request which failed with this status gets.

    Args:
        status: as gRPC gave it.
        message: likewise.
        retry_s: after how many seconds to try again, if the gateway said so.
    """
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and retry_s is not None:
        error = FullError(message)
        error.retry_s = retry_s
        return error
    kind = next((kind for kind, code in _STATUSES if code is status), ServingError)
    known = any(code is status for _, code in _STATUSES)
    return kind(message if known else f"{status.name}: {message}")
