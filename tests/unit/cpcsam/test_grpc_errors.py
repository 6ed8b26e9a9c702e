"""Errors and gRPC statuses go over into each other; Triton's errors become ours."""

from __future__ import annotations

import grpc
import pytest
from tritonclient.utils import InferenceServerException

from cpcsam.errors import ContractError, CpcSamError, DataError, ServingError
from cpcsam.grpc_errors import (
    AuthenticationError,
    DeadlineError,
    ExistsError,
    ForbiddenError,
    LimitError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
    error_of_status,
    status_of_error,
)
from serving.gateway.inference.triton_responses import error_from_triton

PAIRS = [
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
]


@pytest.mark.parametrize(("kind", "status"), PAIRS)
def test_error_classes_round_trip_through_their_status(
    kind: type[CpcSamError], status: grpc.StatusCode
) -> None:
    assert status_of_error(kind("a: got b, expected c; d")) is status
    back = error_of_status(status, "a: got b, expected c; d")
    assert type(back) is kind
    assert str(back) == "a: got b, expected c; d"


def test_unmapped_errors_are_internal_and_unmapped_statuses_are_named() -> None:
    assert status_of_error(DataError("x")) is grpc.StatusCode.INTERNAL
    error = error_of_status(grpc.StatusCode.UNIMPLEMENTED, "no such method")
    assert type(error) is ServingError
    assert str(error) == "UNIMPLEMENTED: no such method"


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        ("INVALID_ARGUMENT", "image_bytes: got x, expected y; z", ContractError),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineError),
        ("UNAVAILABLE", "Request timeout expired", DeadlineError),
        ("UNAVAILABLE", "Exceeds maximum queue size", LimitError),
        ("UNAVAILABLE", "failed to connect to all addresses", UnavailableError),
        ("NOT_FOUND", "Request for unknown model: 'segment' is not found", UnavailableError),
        ("INTERNAL", "Traceback (most recent call last): secret", ServingError),
        ("UNKNOWN", "", ServingError),
    ],
)
def test_errors_of_triton(status: str, message: str, kind: type[CpcSamError]) -> None:
    error = error_from_triton(InferenceServerException(message, f"StatusCode.{status}"), "h:1")
    assert type(error) is kind
    assert "secret" not in str(error)
    assert ": got " in str(error) and "; " in str(error)


def test_the_ensembles_name_is_left_out_of_a_steps_message() -> None:
    text = "in ensemble 'segment', image_bytes: got text, expected PNG; send a PNG"
    error = error_from_triton(InferenceServerException(text, "StatusCode.INVALID_ARGUMENT"), "h:1")
    assert str(error) == "image_bytes: got text, expected PNG; send a PNG"
