"""Status of a stream that the gateway ends while messages are sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest

from cpcsam.client import Prompt, SegmentRequest
from cpcsam.client.async_client import AsyncSegmentationClient
from cpcsam.errors import CpcSamError
from cpcsam.grpc_errors import error_of_status
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc

REASON = "request_id: got 200000 bytes, expected at most 128; shorten it"


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
