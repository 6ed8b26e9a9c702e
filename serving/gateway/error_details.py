"""gRPC statuses of errors: code, message and machine-readable details (google.rpc)."""

from __future__ import annotations

import re
from typing import Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from cpcsam.errors import ContractError, CpcSamError
from cpcsam.grpc_errors import FullError, status_of_error

__all__ = ["status_message", "trailing_metadata"]

DETAILS_KEY: Final = "grpc-status-details-bin"
PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
DOMAIN: Final = "cpcsam.v1"
Metadata = tuple[tuple[str, str | bytes], ...]


def trailing_metadata(error: CpcSamError) -> Metadata:
    """Trailing metadata of a failed call: its `status_message` and gRPC's retry pushback."""
    details: Metadata = ((DETAILS_KEY, status_message(error).SerializeToString()),)
    if isinstance(error, FullError):
        details += ((PUSHBACK_KEY, str(_milliseconds(error))),)
    return details


def status_message(error: CpcSamError) -> status_pb2.Status:
    """Convert an error to a google.rpc.Status.

    Its details are ErrorInfo (the class of the error, such as FULL), BadRequest if a field is at
    fault, and RetryInfo if a retry helps.
    """
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__.removesuffix("Error"))
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=name.upper(), domain=DOMAIN)]
    if isinstance(error, ContractError):
        # The message begins with the field: "prompts[0].box: got ...".
        field, _, description = str(error).partition(": ")
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=field, description=description
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, FullError):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(_milliseconds(error))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=_number(status_of_error(error)), message=str(error))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _milliseconds(error: FullError) -> int:
    return max(1, round(error.retry_s * 1e3))


def _number(code: grpc.StatusCode) -> int:
    number: int = code.value[0]
    return number
