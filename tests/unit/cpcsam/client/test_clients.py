"""The blocking and the asyncio client: parity, signatures, and the ends of calls."""

from __future__ import annotations

import asyncio
import functools
import inspect
import io
import math
import pydoc
import queue
import re
import threading
import time
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest

from cpcsam.client import (
    Everything,
    ImageId,
    Prompt,
    ReadOptions,
    SegmentationClient,
    SegmentRequest,
    encode_image,
    sync_client,
)
from cpcsam.client.async_client import AsyncSegmentationClient
from cpcsam.client.results import SegmentResult
from cpcsam.errors import ConfigError, ContractError, CpcSamError, ServingError
from cpcsam.grpc_errors import UnavailableError, error_of_status
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from tests.support.servers.gateway_peer import Peer, peer_gateway


def surface(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member).replace(return_annotation=None)
        for name, member in inspect.getmembers(kind, callable)
        if not name.startswith("_")
    }


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    blocking, suspending = surface(SegmentationClient), surface(AsyncSegmentationClient)
    methods = {"segment", "describe", "classes", "add_class", "remove_class", "healthy"}
    assert methods < set(blocking)
    assert list(blocking) == list(suspending)
    for name, signature in blocking.items():
        asynchronous = str(suspending[name]).replace(" | AsyncIterable[SegmentRequest]", "")
        assert str(signature) == asynchronous
        assert getattr(SegmentationClient, name).__doc__, name
        suspends = getattr(AsyncSegmentationClient, name)
        assert inspect.iscoroutinefunction(suspends) or inspect.isasyncgenfunction(suspends)


@pytest.mark.parametrize("kind", [SegmentationClient, AsyncSegmentationClient])
def test_client_help_shows_only_parameters_that_callers_pass(kind: type[Any]) -> None:
    client = kind()
    internal = re.compile(r"pb2?\.|_pb2|BaseClient|ClientMethods|Connection\b|Attempts|Endpoint")
    for name in surface(kind):
        method = getattr(client, name)
        parameters = inspect.signature(method).parameters
        assert not {"self", "client", "args", "kwargs"} & set(parameters), name
        for parameter in parameters.values():
            assert parameter.annotation is not inspect.Parameter.empty, (name, parameter)
            arguments = (inspect.getdoc(method) or "").partition("Args:")[2]
            assert f"{parameter.name}: " in arguments, (name, parameter)
        text = pydoc.plain(pydoc.render_doc(method))
        assert not internal.search(text.partition("method of")[0]), text
        assert method.__qualname__.split(".")[-1] == name


def test_blocking_client_with_a_suspending_connection_raises() -> None:
    class Suspending(sync_client.BlockingConnection):
        async def offload(self, work, *args, **kwargs):  # type: ignore[no-untyped-def]
            await asyncio.sleep(0)

    with SegmentationClient() as waiting:
        waiting._methods._connection = Suspending(waiting._methods._endpoint)
        with pytest.raises(RuntimeError, match="a blocking connection suspended a call"):
            waiting.segment(b"")


async def closed_during_call(kind: type[Any], address: str, peer: Peer) -> BaseException:
    """Outcome of a call whose client is closed meanwhile; a further call must raise as well."""
    client = kind(address, retry=False)
    peer.meet = threading.Barrier(2)  # never answered
    blocking = kind is SegmentationClient
    call = functools.partial(client.segment, b"image", [Prompt.click(1, 1)])
    task = asyncio.create_task(asyncio.to_thread(call) if blocking else call())
    while not peer.requests:
        assert not task.done()
        await asyncio.sleep(0.01)
    closing = client.close()
    if not blocking:
        await closing
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    with pytest.raises(ServingError, match="client: got a closed client"):
        client.describe() if blocking else await client.describe()
    return outcome


@pytest.mark.parametrize("kind", [SegmentationClient, AsyncSegmentationClient])
async def test_close_during_a_call_raises_serving_error_in_it(kind: type[Any]) -> None:
    with peer_gateway() as (address, peer):
        outcome = await closed_during_call(kind, address, peer)
    assert type(outcome) is ServingError, outcome


SMALL = encode_image(np.zeros((4, 4, 3), np.uint8))
REASON = "request_id: got 200000 bytes, expected at most 128; shorten it"


class Unreadable(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise zipfile.BadZipFile("Bad CRC-32")


def test_stream_yields_an_unsendable_requests_error_before_the_next_request() -> None:
    requests: queue.Queue[SegmentRequest] = queue.Queue()
    with peer_gateway() as (address, _), SegmentationClient(address) as client:
        stream = client.segment_stream(iter(requests.get, None), timeout_s=60)
        closed = io.BytesIO(SMALL)
        closed.close()
        for request in (
            SegmentRequest("nowhere.png"),
            SegmentRequest(closed),
            SegmentRequest(Unreadable()),
            SegmentRequest(SMALL, tile_size=-1),
            SegmentRequest(SMALL, tile_overlap="half"),  # type: ignore[arg-type]
            SegmentRequest(SMALL, read_options=ReadOptions(page=2**32)),
            SegmentRequest(SMALL, request_id="no UTF-8: \udcff"),
            SegmentRequest(ImageId("\udcff")),
        ):
            requests.put(request)
            assert type(next(stream)) is ContractError, request
            requests.put(SegmentRequest(SMALL, [Prompt.click(0, 0)]))
            assert type(next(stream)) is SegmentResult


def test_value_that_cannot_be_sent_is_named() -> None:
    with SegmentationClient() as client:
        with pytest.raises(ContractError, match="tile_size: got -1 .*correct it"):
            client.segment(SMALL, classes=["cell"], tile_size=-1)
        with pytest.raises(ContractError, match="min_area: got 0.5 "):
            client.segment(SMALL, everything=Everything(min_area=0.5))  # type: ignore[arg-type]
        with pytest.raises(ContractError, match="classes"):
            client.segment(SMALL, classes=(number for number in [1]))  # type: ignore[arg-type]
        for change in (client.add_class, client.remove_class):
            with pytest.raises(ContractError, match=r"name: got '\\udcff'"):
                change("\udcff")


@pytest.mark.parametrize("timeout_s", [0, -1, math.nan, math.inf, 1e10, None])
@pytest.mark.parametrize("kind", [SegmentationClient, AsyncSegmentationClient])
def test_time_limit_that_grpc_does_not_take_is_refused(kind: type[Any], timeout_s: Any) -> None:
    with pytest.raises(ConfigError, match="timeout_s: got .*expected seconds above 0"):
        kind(timeout_s=timeout_s)
    if timeout_s is not None:
        with SegmentationClient() as client, pytest.raises(ConfigError, match="timeout_s: got"):
            next(client.segment_stream([], timeout_s=timeout_s))


class Forgetful(Peer):
    """Forgets images, and takes its time to say so."""

    def __init__(self) -> None:
        super().__init__()
        self.remaining_s: list[float] = []

    def Segment(self, request: pb.SegmentRequest, context: Any) -> pb.SegmentResponse:  # noqa: N802
        self.remaining_s.append(context.time_remaining())
        if request.image_id:
            time.sleep(0.5)
        self.images.clear()
        return super().Segment(request, context)


def test_timeout_bounds_a_call_that_sends_its_image_again() -> None:
    peer = Forgetful()
    with peer_gateway(peer) as (address, _), SegmentationClient(address, timeout_s=8) as client:
        for _ in range(2):
            client.segment(SMALL, [Prompt.click(0, 0)])
    _, by_id, with_bytes = peer.remaining_s
    assert with_bytes < by_id - 0.4  # HTTP/2 rounds the time


class Breaking(Peer):
    """Does what it is told to a class, and ends the first calls with UNAVAILABLE and a message."""

    def __init__(self, *messages: str) -> None:
        super().__init__()
        self.messages = list(messages)
        self.calls = 0

    def AddClass(self, request: Any, context: Any) -> pb.ListClassesResponse:  # noqa: N802
        self.calls += 1
        if self.messages:
            context.abort(grpc.StatusCode.UNAVAILABLE, self.messages.pop(0))
        return pb.ListClassesResponse()

    RemoveClass = AddClass


AWAY = "Triton: got no answer, expected one; wait"


@pytest.mark.parametrize("method", ["add_class", "remove_class"])
def test_change_that_may_be_done_is_not_repeated(method: str) -> None:
    peer = Breaking(AWAY, "Socket closed")
    with peer_gateway(peer) as (address, _), SegmentationClient(address) as client:
        change = functools.partial(getattr(client, method), "nucleus")
        with pytest.raises(UnavailableError) as caught:
            change()
        assert peer.calls == 2
        expected = "got Socket closed, expected an answer; look whether it was done before you"
        assert expected in str(caught.value)
        assert change() == ()


def test_change_that_was_never_sent_is_repeated() -> None:
    with peer_gateway() as (address, _):
        pass
    with SegmentationClient(address) as client:
        done = threading.Thread(target=client.remove_class, args=("nucleus",))
        done.start()
        time.sleep(0.3)  # refused connections
        peer = Breaking()
        with peer_gateway(peer, address):
            done.join(60)
    assert peer.calls == 1


class Refusing(pb_grpc.SegmentationServicer):
    """Refuses a stream at its first request, while others are under way."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    async def SegmentStream(  # noqa: N802
        self, requests: Any, context: Any
    ) -> None:
        await anext(requests)
        await context.abort(self._code, REASON)


@asynccontextmanager
async def refusing(code: grpc.StatusCode) -> AsyncIterator[str]:
    server = grpc.aio.server()
    pb_grpc.add_SegmentationServicer_to_server(Refusing(code), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAUTHENTICATED]
)
async def test_stream_that_ends_while_messages_are_sent_raises_its_status(
    code: grpc.StatusCode,
) -> None:
    image = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    requests = [SegmentRequest(image, [Prompt.click(1, 1)]) for _ in range(32)]
    async with refusing(code) as address, AsyncSegmentationClient(address) as client:
        for _ in range(30):
            with pytest.raises(CpcSamError) as caught:
                async for _ in client.segment_stream(requests):
                    pass
            assert type(caught.value) is type(error_of_status(code, REASON))
            assert str(caught.value) == REASON
