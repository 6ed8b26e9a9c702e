"""Client side of a bidirectional stream: requests to messages, responses to ordered outcomes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import grpc

from cpcsam.client._image_cache import with_image
from cpcsam.client._protobuf import result_of, segment_request
from cpcsam.client.prompts import Prompt
from cpcsam.client.requests import SegmentRequest
from cpcsam.client.results import SegmentResult
from cpcsam.errors import CpcSamError, ServingError
from cpcsam.grpc_errors import error_of_status
from cpcsam.v1 import segmentation_pb2 as pb

__all__ = ["StreamSession"]

STATUSES: Final = {status.value[0]: status for status in grpc.StatusCode}


class StreamSession:
    """State of a stream; requests may be encoded in another thread than outcomes are read."""

    def __init__(self) -> None:
        # Needs no lock: append and popleft of a deque are atomic.
        self._pending: deque[Sequence[Prompt] | CpcSamError] = deque()

    def encode(self, request: SegmentRequest) -> pb.SegmentRequest:
        """Encode the next request.

        One that cannot be sent becomes an empty message, which the gateway refuses at once: so its
        error comes in its turn, and does not wait for the next request.
        """
        try:
            message = with_image(segment_request(request), request.image)
        except CpcSamError as error:
            self._pending.append(error)
            return pb.SegmentRequest()
        # Before the message can be sent, as its response pops this entry.
        self._pending.append(request.prompts)
        return message

    def outcome(self, answer: pb.SegmentStreamResponse) -> SegmentResult | CpcSamError:
        """Return the outcome of the next request, from its response."""
        pending = self._pending.popleft()
        if isinstance(pending, CpcSamError):
            return pending
        if answer.HasField("response"):
            return result_of(answer.response, pending)
        failure = answer.failure
        status = STATUSES.get(failure.code, grpc.StatusCode.UNKNOWN)
        return error_of_status(status, failure.message)

    def require_answered(self) -> None:
        """Check at the end of the stream that every request has had a response.

        Raises:
            ServingError: one has none.
        """
        if self._pending:
            raise ServingError.of(
                "SegmentStream",
                got="fewer responses than requests",
                expected="one response per request",
                fix="see the gateway's log",
            )
