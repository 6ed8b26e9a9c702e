"""What a client can ask, written once for callers that wait and for asyncio.

Each call is a coroutine that awaits nothing but the caller's `Connection`. That of asyncio suspends
it; that of waiting callers blocks instead, so that the coroutine runs through at once.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence

import grpc

from cpcsam.client._base import HEALTHY, Caller
from cpcsam.client._protobuf import (
    add_class_request,
    classes_of,
    description_of,
    result_of,
    segment_request,
)
from cpcsam.client._retry import Attempts
from cpcsam.client._stream import QuestionStream
from cpcsam.client.images import ImageLike
from cpcsam.client.masks import MaskFormat
from cpcsam.client.prompts import Prompt
from cpcsam.client.requests import ClassSearch, Everything, Example, Question
from cpcsam.client.results import ClassInfo, Description, SegmentResult
from cpcsam.contract import MaskSelection
from cpcsam.errors import CpcSamError
from cpcsam.grpc_errors import NotFoundError
from cpcsam.v1 import segmentation_pb2 as pb

__all__ = [
    "add_class",
    "ask",
    "classes",
    "describe",
    "healthy",
    "remove_class",
    "segment",
    "segment_stream",
]


async def segment(
    client: Caller,
    image: ImageLike,
    prompts: Sequence[Prompt] = (),
    *,
    classes: Sequence[str] = (),
    class_search: ClassSearch | None = None,
    everything: Everything | None = None,
    mask_selection: MaskSelection = MaskSelection.SINGLE,
    mask_format: MaskFormat = MaskFormat.COCO_RLE,
    low_res_masks: bool = False,
    tile_size: int = 0,
    tile_overlap: float | None = None,
    request_id: str = "",
) -> SegmentResult:
    """Segment what prompts point at, all entities of classes, or everything.

    The arguments are those of `Question`, where they are described.

    Raises:
        ContractError: the image, a prompt or a name is wrong.
        LimitError: the request is over a limit, or the gateway is full (FullError).
        NotFoundError: the server does not know an ImageId any more.
        AuthenticationError: the gateway asks for a token, and for another one than was given.
        UnavailableError: the gateway, or the server behind it, cannot be reached.
        DeadlineError: no answer within timeout_s.
        ServingError: anything else went wrong in the service.
    """
    return await ask(
        client,
        Question(
            image,
            prompts,
            classes=classes,
            class_search=class_search,
            everything=everything,
            mask_selection=mask_selection,
            mask_format=mask_format,
            low_res_masks=low_res_masks,
            tile_size=tile_size,
            tile_overlap=tile_overlap,
            request_id=request_id,
        ),
    )


async def ask(client: Caller, question: Question) -> SegmentResult:
    """Ask as `segment` does.

    Raises:
        CpcSamError: as `segment`.
    """
    request = segment_request(question)
    *named, last = await client._connection.aside(client._sent.ways, request, question.image)
    for way in named:
        try:
            return result_of(await client._call("Segment", way), question.prompts)
        except NotFoundError:
            client._sent.forget(way)
    response: pb.SegmentResponse = await client._call("Segment", last)
    client._sent.answered(response)
    return result_of(response, question.prompts)


async def segment_stream(
    client: Caller,
    questions: Iterable[Question] | AsyncIterable[Question],
    *,
    timeout_s: float | None = None,
) -> AsyncGenerator[SegmentResult | CpcSamError, None]:
    """Ask about many images over one stream; yields the answers in the order of the questions.

    Questions are taken no further ahead of the answers than the server reads and the connection
    holds, so there may be any number of them. Each is bounded by the server's own time. A stream
    that breaks is not taken up again.

    Args:
        client: that asks.
        questions: one for each image; asyncio takes asynchronous iterables as well.
        timeout_s: longest time for the whole stream; None for any.

    Yields:
        The answer, or the error of the one question that failed.

    Raises:
        CpcSamError: as `segment`, where the stream itself fails.
    """
    limit_s = math.inf if timeout_s is None else timeout_s
    attempts = Attempts(client._endpoint.address, limit_s, retry=False)
    stream = QuestionStream()
    answers = client._connection.stream("SegmentStream", stream.take, questions, timeout_s)
    try:
        async for answer in answers:
            client._sent.answered(answer.response)
            for outcome in stream.outcomes(answer):
                yield outcome
        for outcome in stream.rest():
            yield outcome
    except grpc.RpcError as error:
        raise attempts.failure(error) from error
    finally:
        await answers.aclose()


async def describe(client: Caller) -> Description:
    """Ask which model answers, within which limits.

    Raises:
        CpcSamError: as `segment`.
    """
    return description_of(await client._call("Describe", pb.DescribeRequest()))


async def classes(client: Caller) -> tuple[ClassInfo, ...]:
    """Ask which classes the server knows.

    Raises:
        CpcSamError: as `segment`.
    """
    return classes_of(await client._call("ListClasses", pb.ListClassesRequest()))


async def add_class(
    client: Caller, name: str, examples: Sequence[Example], *, tile_size: int = 0
) -> tuple[ClassInfo, ...]:
    """Teach a class by annotated images.

    Args:
        client: that asks.
        name: of the new class.
        examples: a few images with all entities of the class in them.
        tile_size: for the first class: side of the tiles in which images are looked at, in
            pixels; small entities need small tiles. 0 looks at whole images.

    Returns:
        All classes that the server now knows.

    Raises:
        ExistsError: the class is known already.
        ForbiddenError: the token may not change classes.
        PreconditionError: the gateway keeps no classes.
        CpcSamError: as `segment`.
    """
    request = await client._connection.aside(add_class_request, name, examples, tile_size)
    return classes_of(await client._call("AddClass", request))


async def remove_class(client: Caller, name: str) -> tuple[ClassInfo, ...]:
    """Make the server forget a class.

    Returns:
        The classes that are left.

    Raises:
        NotFoundError: there is no such class.
        CpcSamError: as `add_class`.
    """
    return classes_of(await client._call("RemoveClass", pb.RemoveClassRequest(name=name)))


async def healthy(client: Caller) -> bool:
    """Whether the gateway can be reached and says it can answer; asks once."""
    try:
        answer = await client._connection.call("CheckHealth", b"", client._timeout_s)
    except grpc.RpcError:
        return False
    return bool(answer == HEALTHY)
