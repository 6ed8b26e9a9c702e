"""gRPC failures of the gateway as problems: status, message, field and time to retry."""

from __future__ import annotations

from typing import Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from serving.http.problems import STATUSES, Problem

__all__ = ["problem_of"]

DETAILS_KEY: Final = "grpc-status-details-bin"
OWN_FORM: Final = ": got "
"""Part of every message of the gateway; gRPC's own messages name addresses and tell no fix."""
TOO_LARGE: Final = "message larger than max"
UNREACHABLE_S: Final = 1.0


def problem_of(error: grpc.aio.AioRpcError) -> Problem:
    """Convert the failure of a call to the gateway.

    Args:
        error: with the gateway's details (google.rpc), or gRPC's own.
    """
    code, message = error.code().name, error.details() or ""
    field, retry_after_s = _details(error)
    if OWN_FORM not in message:
        message, own_retry_s = _own_message(code, message)
        retry_after_s = retry_after_s or own_retry_s
    return Problem.of(STATUSES.get(code, 500), code, message, field, retry_after_s)


def _own_message(code: str, message: str) -> tuple[str, float | None]:
    """Return a message for what gRPC itself tells, and seconds after which to retry."""
    if code == "UNAVAILABLE":
        return "gateway: got no connection, expected a gateway; try again", UNREACHABLE_S
    if code == "DEADLINE_EXCEEDED":
        return (
            "deadline: got no answer in time, expected one; allow more by X-Request-Timeout",
            None,
        )
    if code == "INTERNAL":  # the gateway tells no more, and gRPC more than callers should see
        return "gateway: got an internal error, expected an answer; see its log", None
    if code == "RESOURCE_EXHAUSTED" and TOO_LARGE in message:
        return (
            "request: got more bytes than the gateway takes, expected its limits of /v1/describe; "
            "send a smaller image",
            None,
        )
    return message or code, None


def _details(error: grpc.aio.AioRpcError) -> tuple[str | None, float | None]:
    """Return the field at fault and the seconds of RetryInfo, where the gateway tells them."""
    field = retry_after_s = None
    for name, value in error.trailing_metadata() or ():
        if name != DETAILS_KEY or not isinstance(value, bytes):
            continue
        try:
            status = status_pb2.Status.FromString(value)
        except DecodeError:
            continue
        bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        for detail in status.details:
            if detail.Unpack(bad) and bad.field_violations:
                field = bad.field_violations[0].field
            elif detail.Unpack(retry):
                retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    return field, retry_after_s
