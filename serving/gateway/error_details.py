"""gRPC statuses of errors: code, message and machine-readable details (google.rpc)."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from cpcsam.errors import ContractError, CpcSamError
from cpcsam.grpc_errors import FullError, status_of_error
from cpcsam.text import printable

__all__ = [
    "abort_with",
    "public_text",
    "status_message",
    "trailing_metadata",
    "without_frames",
]

DETAILS_KEY: Final = "grpc-status-details-bin"
PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
DOMAIN: Final = "cpcsam.v1"
MAX_BYTES: Final = 1200
"""Size of a message. Clients take 8 KiB of metadata, which hold it three times, encoded."""
Metadata = tuple[tuple[str, str | bytes], ...]


async def abort_with(grpc_context: Any, error: CpcSamError) -> None:
    """End a call with the status of an error; raises what gRPC ends handlers by."""
    code = status_of_error(error)
    # What is given here takes the place of what the call was given before, its id.
    details = (*(grpc_context.trailing_metadata() or ()), *trailing_metadata(error))
    try:
        await grpc_context.abort(code, public_text(error), details)
    except grpc.aio.AbortError as aborted:
        # The call keeps this exception, and its frames the call and the request: a circle.
        asyncio.get_running_loop().call_soon(aborted.with_traceback, None)
        raise
    except grpc.aio.InternalError:
        # The client has gone before its status was sent, which is no error of the gateway.
        raise asyncio.CancelledError from None


def public_text(error: CpcSamError) -> str:
    """Return an error's message as callers get it: printable, on one line and not too long."""
    return printable(str(error), MAX_BYTES).encode()[:MAX_BYTES].decode(errors="ignore")


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
    text = public_text(error)
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__.removesuffix("Error"))
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=name.upper(), domain=DOMAIN)]
    if isinstance(error, ContractError):
        # The message begins with the field: "prompts[0].box: got ...".
        field, _, description = text.partition(": ")
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=field, description=description
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, FullError):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(_milliseconds(error))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=_number(status_of_error(error)), message=text)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def without_frames(error: CpcSamError) -> CpcSamError:
    """Return an error without the frames that raised it and its causes, nor what these hold.

    The frames of a failed request hold its image. Where one of them refers to the error, all of it
    stays in memory until the garbage collector finds the circle.
    """
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
    return error


def _milliseconds(error: FullError) -> int:
    return max(1, round(error.retry_s * 1e3))


def _number(code: grpc.StatusCode) -> int:
    number: int = code.value[0]
    return number
