"""A request is authenticated once and fetches the model's metadata once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from serving.gateway.auth import authenticator as authenticator_module
from serving.gateway.auth.authenticator import Authenticator, Metadata, Principal
from serving.gateway.auth.interceptor import AuthenticationInterceptor
from serving.gateway.auth.tokens import USER, digest_of
from serving.gateway.config import GatewayConfig
from serving.gateway.context import ModelInfo
from serving.gateway.inference.triton_client import TritonClient
from serving.gateway.metrics import Metrics
from serving.gateway.rpc import RpcRunner
from serving.gateway.scheduling.admission import Admission
from serving.gateway.server import build_service

TOKEN = (("authorization", "Bearer of-the-lab"),)
MODEL = ModelInfo("2.51.0", "1", "vit_t", 256, "digest", "trained", mask_prompts=True)


class CountingAuthenticator(Authenticator):
    lookups = 0

    def authenticate(self, metadata: Metadata | None) -> Principal:
        self.lookups += 1
        return super().authenticate(metadata)


class Server:
    """The gateway's service behind its interceptor, without Triton."""

    def __init__(self, tokens: Path | None) -> None:
        self.authenticator = CountingAuthenticator(tokens)
        self.model_requests = 0

    async def model_info(self, timeout_s: float) -> ModelInfo:
        self.model_requests += 1
        return MODEL

    @asynccontextmanager
    async def start(self) -> AsyncIterator[pb_grpc.SegmentationStub]:
        config, metrics = GatewayConfig(triton="127.0.0.1:9"), Metrics()
        admission = Admission(config.limits, metrics)
        triton = TritonClient(config.triton, admission)
        rpc = RpcRunner(self.authenticator, metrics, 5, self.model_info)
        server = grpc.aio.server(
            interceptors=(AuthenticationInterceptor(self.authenticator, metrics),)
        )
        service = build_service(config, rpc, admission, triton, metrics)
        pb_grpc.add_SegmentationServicer_to_server(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield pb_grpc.SegmentationStub(channel)
        finally:
            await server.stop(None)
            await triton.close()


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.txt"
    path.write_text(f"lab {USER} {digest_of('of-the-lab')}\n")
    return path


async def test_unary_call_looks_token_and_model_up_once(tokens: Path) -> None:
    server = Server(tokens)
    async with server.start() as stub:
        response = await stub.Describe(pb.DescribeRequest(), metadata=TOKEN)
    assert response.model.digest == "digest" and not response.classes
    assert (server.authenticator.lookups, server.model_requests) == (1, 1)


async def test_unary_call_without_tokens_is_served() -> None:
    server = Server(None)
    async with server.start() as stub:
        assert (await stub.Describe(pb.DescribeRequest())).model.digest == "digest"
    assert (server.authenticator.lookups, server.model_requests) == (1, 1)


async def test_stream_looks_a_token_up_for_each_request_and_notices_its_revocation(
    tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authenticator_module, "CHECK_PERIOD_S", 0)
    server = Server(tokens)
    async with server.start() as stub:
        stream = stub.SegmentStream(metadata=TOKEN)
        codes = []
        for text in ("known", "revoked"):
            if text == "revoked":
                tokens.write_text("# no token\n")
            await stream.write(pb.SegmentRequest(request_id=text))
            codes.append((await stream.read()).failure.code)
        await stream.done_writing()
    unauthenticated, invalid = (
        grpc.StatusCode.UNAUTHENTICATED.value[0],
        grpc.StatusCode.INVALID_ARGUMENT.value[0],
    )
    assert codes == [invalid, unauthenticated]
    assert server.authenticator.lookups == 3  # at the opening of the stream, and at each request
