"""Mapping between errors and gRPC status codes, shared by gateway and client.

The gateway converts an error to its status code, the client converts it back to the same error.
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
    "STATUS_CODES",
    "PreconditionError",
    "UnavailableError",
    "error_of_status",
    "status_of_error",
]


class LimitError(ServingError):
    """A request exceeds a limit of the service, or too many run concurrently."""


class FullError(LimitError):
    """The service is at capacity; retry later.

    Attributes:
        retry_s: seconds to wait before a retry.
    """

    retry_s: float = 1.0


class NotFoundError(ServingError):
    """The request names something that does not exist, or no longer."""


class ExistsError(ServingError):
    """The object to create exists already."""


class PreconditionError(ServingError):
    """The request is valid, but the server is not in a state to fulfil it."""


class AuthenticationError(ServingError):
    """The caller sent no credentials, or unknown ones."""


class ForbiddenError(ServingError):
    """The caller lacks the permission."""


class UnavailableError(ServingError):
    """The gateway, or the inference server behind it, cannot be reached; a retry may help."""


class DeadlineError(ServingError):
    """The deadline passed before the response."""


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

STATUS_CODES: Final = (
    grpc.StatusCode.OK,
    grpc.StatusCode.CANCELLED,
    *(status for _, status in _STATUSES),
)
"""All codes with which the gateway ends a call."""


def status_of_error(error: CpcSamError) -> grpc.StatusCode:
    """Return the gRPC status code of an error."""
    return next(
        (status for kind, status in _STATUSES if isinstance(error, kind)),
        grpc.StatusCode.INTERNAL,
    )


def error_of_status(
    status: grpc.StatusCode, message: str, retry_s: float | None = None
) -> CpcSamError:
    """Return the error of a gRPC status code.

    Args:
        status: code of the failed call.
        message: its details.
        retry_s: seconds after which the gateway asks to retry, if any.
    """
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and retry_s is not None:
        error = FullError(message)
        error.retry_s = retry_s
        return error
    kind = next((kind for kind, code in _STATUSES if code is status), ServingError)
    known = any(code is status for _, code in _STATUSES)
    return kind(message if known else f"{status.name}: {message}")
