"""Failures of the gateway as problems."""

from __future__ import annotations

import grpc
import pytest

from cpcsam.errors import ContractError, CpcSamError
from cpcsam.grpc_errors import FullError, LimitError
from serving.gateway.error_details import public_text, trailing_metadata
from serving.http.problems import STATUSES
from serving.http.rpc_problems import problem_of


def failure(
    code: grpc.StatusCode, details: str, *trailing: tuple[str, str | bytes]
) -> grpc.aio.AioRpcError:
    metadata = grpc.aio.Metadata(*trailing)
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, details)


def of_error(code: grpc.StatusCode, error: CpcSamError) -> grpc.aio.AioRpcError:
    """A failure as the gateway sends it."""
    return failure(code, public_text(error), *trailing_metadata(error))


def test_problem_has_the_gateways_message_and_the_field_at_fault() -> None:
    error = ContractError.of("prompts[0].box", got="x", expected="y", fix="z")
    problem = problem_of(of_error(grpc.StatusCode.INVALID_ARGUMENT, error))
    assert (problem.status, problem.code) == (400, "INVALID_ARGUMENT")
    assert problem.detail == "prompts[0].box: got x, expected y; z"
    assert (problem.field, problem.retry_after_s) == ("prompts[0].box", None)


def test_problem_of_a_full_server_tells_when_to_retry_and_that_of_a_limit_does_not() -> None:
    full = FullError.of("server", got="a", expected="b", fix="c")
    full.retry_s = 2.5
    problem = problem_of(of_error(grpc.StatusCode.RESOURCE_EXHAUSTED, full))
    assert (problem.status, problem.retry_after_s) == (429, 2.5)
    answer = problem.response("id")
    assert answer.headers["retry-after"] == "3"
    limit = LimitError.of("prompts", got="a", expected="b", fix="c")
    problem = problem_of(of_error(grpc.StatusCode.RESOURCE_EXHAUSTED, limit))
    assert (problem.status, problem.retry_after_s) == (429, None)
    assert "retry-after" not in problem.response("id").headers


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        (
            grpc.StatusCode.UNAVAILABLE,
            "failed to connect to ipv4:10.0.0.1:50051",
            "got no connection",
        ),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", "X-Request-Timeout"),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "CLIENT: Received message larger than max (10.0.0.1 vs. 1)",
            "send a smaller image",
        ),
        (grpc.StatusCode.INTERNAL, "Exception in /opt/secret.py", "see its log"),
        (grpc.StatusCode.UNAVAILABLE, "Triton: got none, expected one; wait", "Triton: got none"),
    ],
)
def test_messages_of_grpc_itself_are_replaced(
    code: grpc.StatusCode, details: str, expected: str
) -> None:
    detail = problem_of(failure(code, details)).detail
    assert expected in detail
    assert "10.0.0.1" not in detail and "secret" not in detail


def test_details_that_are_no_message_are_ignored() -> None:
    error = failure(grpc.StatusCode.NOT_FOUND, "x: got y", ("grpc-status-details-bin", b"\xff\xff"))
    assert problem_of(error).status == 404


def test_every_grpc_status_has_an_http_status() -> None:
    assert STATUSES.keys() == {code.name for code in grpc.StatusCode} - {"OK"}
