"""An error as gRPC carries it: status, message, and details that programs can read."""

from __future__ import annotations

import re
from typing import Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from cpcsam.errors import ContractError, CpcSamError
from cpcsam.status import FullError, status_of_error

__all__ = ["trailing_metadata"]

DETAILS_KEY: Final = "grpc-status-details-bin"
PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
DOMAIN: Final = "cpcsam.v1"
Metadata = tuple[tuple[str, str | bytes], ...]


def trailing_metadata(error: CpcSamError) -> Metadata:
    """What goes beside the status of a failed call.

    A `google.rpc.Status` with ErrorInfo (the class of the error, such as FULL), BadRequest where a
    field is at fault, and RetryInfo where trying again helps; the latter also as gRPC's own
    pushback.
    """
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__.removesuffix("Error"))
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=name.upper(), domain=DOMAIN)]
    metadata: Metadata = ()
    if isinstance(error, ContractError):
        field, _, description = str(error).partition(": ")
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=field, description=description
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, FullError):
        milliseconds = max(1, round(error.retry_s * 1e3))
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(milliseconds)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        metadata = ((PUSHBACK_KEY, str(milliseconds)),)
    status = status_pb2.Status(code=_number(status_of_error(error)), message=str(error))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return ((DETAILS_KEY, status.SerializeToString()), *metadata)


def _number(code: grpc.StatusCode) -> int:
    number: int = code.value[0]
    return number
