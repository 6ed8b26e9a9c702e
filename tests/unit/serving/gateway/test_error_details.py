"""Machine-readable details of gRPC errors."""

from __future__ import annotations

from google.rpc import error_details_pb2, status_pb2

from cpcsam.errors import ContractError
from cpcsam.grpc_errors import FullError, UnavailableError
from serving.gateway.error_details import trailing_metadata


def test_trailing_metadata_carries_error_details() -> None:
    full = FullError("queue: got x, expected y; z")
    full.retry_s = 0.25
    metadata = dict(trailing_metadata(full))
    assert metadata["grpc-retry-pushback-ms"] == "250"
    status = status_pb2.Status.FromString(bytes(metadata["grpc-status-details-bin"]))
    assert (status.code, status.message) == (8, str(full))
    retry = error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(retry) and retry.retry_delay.ToMilliseconds() == 250

    wrong = dict(trailing_metadata(ContractError("prompts[0].box: got x, expected y; z")))
    assert "grpc-retry-pushback-ms" not in wrong
    status = status_pb2.Status.FromString(bytes(wrong["grpc-status-details-bin"]))
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info) and status.details[1].Unpack(bad)
    assert (info.reason, bad.field_violations[0].field) == ("CONTRACT", "prompts[0].box")
    assert bad.field_violations[0].description == "got x, expected y; z"

    away = dict(trailing_metadata(UnavailableError("a: b")))
    status = status_pb2.Status.FromString(bytes(away["grpc-status-details-bin"]))
    assert (status.code, len(status.details)) == (14, 1)
