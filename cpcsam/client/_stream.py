"""Client side of a bidirectional stream: requests to messages, responses to ordered outcomes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
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

    def encode(self, request: SegmentRequest) -> pb.SegmentRequest | None:
        """Encode the next request; None if it cannot be sent, which becomes its outcome."""
        try:
            message = with_image(segment_request(request), request.image)
        except CpcSamError as error:
            self._pending.append(error)
            return None
        # Before the message can be sent, as its response pops this entry.
        self._pending.append(request.prompts)
        return message

    def outcomes(self, answer: pb.SegmentStreamResponse) -> Iterator[SegmentResult | CpcSamError]:
        """Yield the outcome of a response, after the errors of unsendable requests before it."""
        while isinstance(pending := self._pending.popleft(), CpcSamError):
            yield pending
        if answer.HasField("response"):
            yield result_of(answer.response, pending)
        else:
            failure = answer.failure
            status = STATUSES.get(failure.code, grpc.StatusCode.UNKNOWN)
            yield error_of_status(status, failure.message)

    def remaining(self) -> Iterator[CpcSamError]:
        """Yield the errors of unsendable requests at the end of the stream.

        Raises:
            ServingError: a request that was sent has no response.
        """
        for pending in self._pending:
            if not isinstance(pending, CpcSamError):
                raise ServingError.of(
                    "SegmentStream",
                    got="fewer responses than requests",
                    expected="one response per request",
                    fix="see the gateway's log",
                )
            yield pending
