"""The two ends of a stream: questions become requests, answers become outcomes in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

import grpc

from cpcsam.client._image_cache import with_image
from cpcsam.client._protobuf import result_of, segment_request
from cpcsam.client.prompts import Prompt
from cpcsam.client.requests import Question
from cpcsam.client.results import SegmentResult
from cpcsam.errors import CpcSamError, ServingError
from cpcsam.grpc_errors import error_of_status
from cpcsam.v1 import segmentation_pb2 as pb

__all__ = ["QuestionStream"]

STATUSES: Final = {status.value[0]: status for status in grpc.StatusCode}


class QuestionStream:
    """One stream; requests may be made in another thread than outcomes."""

    def __init__(self) -> None:
        self._asked: deque[Sequence[Prompt] | CpcSamError] = deque()

    def take(self, question: Question) -> pb.SegmentRequest | None:
        """Make a request of the next question; None if it cannot be sent."""
        try:
            request = with_image(segment_request(question), question.image)
        except CpcSamError as error:
            self._asked.append(error)
            return None
        self._asked.append(question.prompts)
        return request

    def outcomes(self, answer: pb.SegmentStreamResponse) -> Iterator[SegmentResult | CpcSamError]:
        """What an answer brings, and before it the errors of questions that could not be sent."""
        while isinstance(asked := self._asked.popleft(), CpcSamError):
            yield asked
        if answer.HasField("response"):
            yield result_of(answer.response, asked)
        else:
            failure = answer.failure
            status = STATUSES.get(failure.code, grpc.StatusCode.UNKNOWN)
            yield error_of_status(status, failure.message)

    def rest(self) -> Iterator[CpcSamError]:
        """Errors of the last questions, where they could not be sent.

        Raises:
            ServingError: a question that was sent has no answer.
        """
        for asked in self._asked:
            if not isinstance(asked, CpcSamError):
                raise ServingError.of(
                    "SegmentStream",
                    got="fewer answers than questions",
                    expected="one for each",
                    fix="see the gateway's log",
                )
            yield asked
