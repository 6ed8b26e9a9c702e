"""Requests: lookups of token and model, context and details of errors."""

from __future__ import annotations

import asyncio
import gc
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from urllib.parse import quote

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

from cpcsam.automatic.vocabulary import Vocabulary, VocabularyConfig
from cpcsam.automatic.vocabulary_io import save_vocabulary
from cpcsam.errors import ContractError, ServingError
from cpcsam.grpc_errors import FullError, UnavailableError
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from serving.gateway.auth import authenticator as authenticator_module
from serving.gateway.auth.authenticator import EVERYBODY, Authenticator, Metadata, Principal
from serving.gateway.auth.interceptor import AuthenticationInterceptor
from serving.gateway.auth.tokens import USER, digest_of
from serving.gateway.config import GatewayConfig
from serving.gateway.context import ModelInfo, RequestContext
from serving.gateway.error_details import abort_with, trailing_metadata
from serving.gateway.inference.image_headers import HeaderReader
from serving.gateway.inference.triton_client import TritonClient
from serving.gateway.metrics import Metrics
from serving.gateway.rpc import RpcRunner
from serving.gateway.scheduling.admission import Admission, Permit
from serving.gateway.scheduling.executors import Executors
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

    def __init__(self, tokens: Path | None, vocabulary: Path | None = None) -> None:
        self.authenticator = CountingAuthenticator(tokens)
        self.vocabulary = vocabulary
        self.model_requests = 0

    async def model_info(self, timeout_s: float) -> ModelInfo:
        self.model_requests += 1
        return MODEL

    @asynccontextmanager
    async def start(self) -> AsyncIterator[pb_grpc.SegmentationStub]:
        config, metrics = (
            GatewayConfig(triton="127.0.0.1:9", vocabulary=self.vocabulary),
            Metrics(),
        )
        admission = Admission(config.limits, metrics)
        executors = Executors()
        triton = TritonClient(config.triton, admission, metrics, executors)
        rpc = RpcRunner(self.authenticator, metrics, 5, self.model_info)
        server = grpc.aio.server(
            interceptors=(AuthenticationInterceptor(self.authenticator, metrics),)
        )
        headers = HeaderReader(config.limits, executors)
        service = build_service(config, rpc, admission, triton, metrics, executors, headers)
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


async def test_describe_with_classes_of_another_model_works_on(tmp_path: Path) -> None:
    arrays = {name: np.zeros((1, 2), np.float32) for name in ("mean", "metric", "prototypes")}
    other = Vocabulary(
        names=("disc",),
        **arrays,
        owners=np.zeros(1, np.int64),
        calibration=np.zeros((1, 2), np.float32),
        model="b" * 64,
        tile=0,
        config=VocabularyConfig(),
    )
    save_vocabulary(other, tmp_path / "other")
    async with Server(None, tmp_path / "other").start() as stub:
        described = await stub.Describe(pb.DescribeRequest())
        assert described.model.digest == "digest" and not described.classes
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListClasses(pb.ListClassesRequest())
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details().startswith("classes: got one made with model bbbbbbbbbbbb, exp")
    assert str(tmp_path) not in str(caught.value)


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
                tokens.write_text(f"lab {USER} {digest_of('another')}\n")
            await stream.write(pb.SegmentRequest(request_id=text))
            codes.append((await stream.read()).failure.code)
        await stream.done_writing()
    unauthenticated, invalid = (
        grpc.StatusCode.UNAUTHENTICATED.value[0],
        grpc.StatusCode.INVALID_ARGUMENT.value[0],
    )
    assert codes == [invalid, unauthenticated]
    assert server.authenticator.lookups == 3  # at the opening of the stream, and at each request


async def test_answer_and_refusal_return_the_request_id(
    tokens: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "serving.gateway.rpc")
    given = (*TOKEN, ("x-request-id", "scan 17"))
    refused = pb.SegmentRequest(image_bytes=b"x", request_id="own")  # without prompts
    async with Server(tokens).start() as stub:
        answered = stub.Describe(pb.DescribeRequest(), metadata=given)
        await answered
        assert dict(await answered.trailing_metadata())["x-request-id"] == "scan 17"
        for metadata, expected in ((given, "scan 17"), (TOKEN, "own"), (given[1:], "scan 17")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Segment(refused, metadata=metadata)
            assert dict(caught.value.trailing_metadata())["x-request-id"] == expected
    lines = [line.partition(":")[0] for line in caplog.messages]
    assert lines == ["Describe 'scan 17'", "Segment 'scan 17' ('own')", "Segment 'own'"]


async def test_abort_of_a_call_whose_client_has_gone_is_a_cancellation() -> None:
    class Gone:
        def trailing_metadata(self) -> tuple[()]:
            return ()

        async def abort(self, *_: object) -> None:
            raise grpc.aio.InternalError("no one is there")

    with pytest.raises(asyncio.CancelledError):
        await abort_with(Gone(), ServingError("refused"))


def test_trailing_metadata_carries_error_details() -> None:
    full = FullError("queue: got x, expected y; z")
    full.retry_s = 0.25
    metadata = dict(trailing_metadata(full))
    assert metadata["grpc-retry-pushback-ms"] == "250"
    status = status_pb2.Status.FromString(bytes(metadata["grpc-status-details-bin"]))
    assert (status.code, status.message) == (8, str(full))
    retry = error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(retry) and retry.retry_delay.ToMilliseconds() == 250

    wrong = dict(trailing_metadata(ContractError("prompts[0].box: got x, expected y; z")))
    assert "grpc-retry-pushback-ms" not in wrong
    status = status_pb2.Status.FromString(bytes(wrong["grpc-status-details-bin"]))
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info) and status.details[1].Unpack(bad)
    assert (info.reason, bad.field_violations[0].field) == ("CONTRACT", "prompts[0].box")
    assert bad.field_violations[0].description == "got x, expected y; z"

    foreign = dict(trailing_metadata(ContractError(f"a: got \x1b[31m{'é' * 5000}\udcff")))
    status = status_pb2.Status.FromString(bytes(foreign["grpc-status-details-bin"]))
    assert status.message.startswith(r"a: got \x1b[31mé")
    assert len(quote(status.message)) + len(b64encode(status.SerializeToString())) < 8000

    away = dict(trailing_metadata(UnavailableError("a: b")))
    status = status_pb2.Status.FromString(bytes(away["grpc-status-details-bin"]))
    assert (status.code, len(status.details)) == (14, 1)


class ModelSource:
    """Triton's metadata, with a count of its requests and of the failures to come."""

    def __init__(self, failures: int = 0) -> None:
        self.requests = 0
        self.failures = failures

    async def __call__(self, timeout_s: float) -> ModelInfo:
        self.requests += 1
        await asyncio.sleep(0)
        if self.requests <= self.failures:
            raise UnavailableError("inference server: away")
        return MODEL


def context_of(source: ModelSource, seconds: float = 5) -> RequestContext:
    return RequestContext("id", EVERYBODY, Permit("a"), monotonic() + seconds, source)


async def test_model_of_concurrent_steps_is_fetched_once() -> None:
    source = ModelSource()
    context = context_of(source)
    assert await asyncio.gather(*(context.model() for _ in range(4))) == [MODEL] * 4
    assert await context.model() is MODEL
    assert source.requests == 1


async def test_model_after_a_failure_is_fetched_again() -> None:
    source = ModelSource(failures=1)
    context = context_of(source)
    with pytest.raises(UnavailableError):
        await context.model()
    assert await context.model() == MODEL and source.requests == 2


async def test_model_of_a_replaced_context_is_fetched_again() -> None:
    source = ModelSource()
    context = context_of(source)
    await context.model()
    await replace(context, permit=Permit("a")).model()
    assert source.requests == 2


def test_remaining_s_after_the_deadline_is_positive() -> None:
    assert 0 < context_of(ModelSource()).remaining_s <= 5
    assert context_of(ModelSource(), -1).remaining_s == 1e-3


async def test_refused_request_is_freed_without_the_garbage_collector() -> None:
    server = Server(None)
    refused = pb.SegmentRequest(image_bytes=bytes(1000), request_id="refused")
    async with server.start() as stub:
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                with pytest.raises(grpc.RpcError):
                    await stub.Segment(refused)
            await asyncio.sleep(0.1)
            kept = [
                each
                for each in gc.get_objects()
                if isinstance(each, pb.SegmentRequest) and each is not refused
            ]
        finally:
            gc.enable()
    assert len(kept) <= 1  # gRPC may hold the last one
