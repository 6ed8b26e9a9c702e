"""Callers that hold calls open or send what is no message: others see no difference."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cpcsam.client import Prompt, SegmentationClient
from cpcsam.grpc_errors import FullError, UnavailableError
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from serving.gateway.auth.tokens import USER, digest_of
from serving.gateway.calls.guard import Patience
from serving.gateway.run import gateway_in_background
from serving.gateway.server import Gateway, GatewayConfig
from tests.support.servers.gateway_watch import free_port, metric, wait_for
from tests.support.servers.raw_http2 import RawConnection

CALLS = 340
IMAGE = np.zeros((20, 30, 3), np.uint8)
CLICK = [Prompt.click(3, 4)]
API = "/cpcsam.v1.Segmentation/"
WATCH = "/grpc.health.v1.Health/Watch"
CHECK = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
OPEN = 'cpcsam_open_calls{{kind="{}"}}'


def config(**options: object) -> GatewayConfig:
    triton = f"127.0.0.1:{free_port()}"
    return GatewayConfig(triton=triton, port=0, metrics_port=0, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens.txt"
    path.write_text("".join(f"{name} {USER} {digest_of(name)}\n" for name in ("greedy", "modest")))
    return path


@pytest.fixture
def shared(tokens: Path) -> Iterator[Gateway]:
    """A gateway of two tenants without Triton: admitted callers get UNAVAILABLE."""
    with gateway_in_background(config(tokens=tokens)) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def open_to_all() -> Iterator[Gateway]:
    """A gateway without tokens."""
    with gateway_in_background(config()) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def impatient() -> Iterator[Gateway]:
    """A gateway without tokens that soon tires of clients; on a busy machine, of all of them."""
    patience = Patience(receive_s=0.3, idle_s=0.3, unread_s=0.4)
    with gateway_in_background(config(patience=patience)) as gateway:
        yield gateway


def assert_admitted(address: str, token: str | None) -> None:
    """The caller reaches the API, health and reflection."""
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    with SegmentationClient(address, timeout_s=60, token=token, retry=False) as client:
        with pytest.raises(UnavailableError, match="inference server: got none that is ready"):
            client.segment(IMAGE, CLICK)
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest()
        health = health_pb2_grpc.HealthStub(channel)
        assert (
            health.Check(request, timeout=60).status == health_pb2.HealthCheckResponse.NOT_SERVING
        )
        watch = health.Watch(request, timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        info = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        listing = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        assert next(info(listing, timeout=60, metadata=metadata)).list_services_response


def test_idle_watches_of_one_connection_leave_others_alone(shared: Gateway) -> None:
    with RawConnection(shared.address) as watcher:
        for _ in range(CALLS):
            watcher.call(WATCH, b"")
        wait_for(shared, OPEN.format("watch"), 64)
        assert_admitted(shared.address, "modest")
    wait_for(shared, OPEN.format("watch"), 0)


def test_idle_watches_of_one_address_leave_other_addresses_alone(shared: Gateway) -> None:
    with ExitStack() as stack:
        for _ in range(6):
            watcher = stack.enter_context(RawConnection(shared.address, source="127.0.0.2"))
            for _ in range(CALLS // 6):
                watcher.call(WATCH, b"")
        wait_for(shared, OPEN.format("watch"), 256)
        assert_admitted(shared.address, "modest")


def test_calls_without_messages_of_one_tenant_leave_others_alone(shared: Gateway) -> None:
    refused = 'cpcsam_rejected_total{reason="open_calls"}'
    with ExitStack() as stack:
        for _ in range(4):
            greedy = stack.enter_context(RawConnection(shared.address))
            for _ in range(CALLS // 4):
                greedy.call(f"{API}Segment", authorization=b"Bearer greedy")
        wait_for(shared, OPEN.format("api"), 128)
        wait_for(shared, refused, CALLS - 128)
        assert_admitted(shared.address, "modest")
        with SegmentationClient(
            shared.address, timeout_s=60, token="greedy", retry=False
        ) as client:
            with pytest.raises(FullError, match="open calls of the tenant: got 128 of kind api"):
                client.describe()
    wait_for(shared, OPEN.format("api"), 0)
    assert_admitted(shared.address, "greedy")


def test_calls_without_messages_of_one_connection_leave_others_alone() -> None:
    with gateway_in_background(config()) as gateway, RawConnection(gateway.address) as greedy:
        for _ in range(CALLS):
            greedy.call(f"{API}SegmentStream")
        wait_for(gateway, OPEN.format("api"), 128)
        assert_admitted(gateway.address, None)


def test_calls_that_are_reset_at_once_are_refused_before_they_queue(shared: Gateway) -> None:
    with RawConnection(shared.address) as greedy:
        greedy.reset_at_once(10 * CALLS, f"{API}Segment", authorization=b"Bearer greedy")
        # Those that are taken meanwhile make room, so that the number differs.
        assert greedy.are_refused_within(5 * CALLS, 10)
        assert_admitted(shared.address, "modest")


@pytest.mark.parametrize("method", [f"{API}Segment", f"{API}SegmentStream", CHECK, REFLECTION])
def test_call_without_a_message_is_ended_in_time(impatient: Gateway, method: str) -> None:
    with grpc.insecure_channel(impatient.address) as channel:
        over = threading.Event()
        silent = channel.stream_stream(method)(_until(over), timeout=60)
        with pytest.raises(grpc.RpcError) as caught:
            list(silent)
        over.set()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert caught.value.details().startswith("request: got no message within 0.3 s, expected one")


def _until(over: threading.Event) -> Iterator[bytes]:
    """No message, and no end of the client's messages before that event."""
    over.wait(60)
    yield from ()


def test_connection_with_an_unread_response_is_ended(
    impatient: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    line = 'cpcsam_rejected_total{reason="unread"}'
    before = metric(impatient, line) or 0
    with RawConnection(impatient.address, window=0) as unread:
        unread.call(CHECK, b"")
        assert unread.is_ended_within(60)
    wait_for(impatient, line, before + 1)
    wait_for(impatient, OPEN.format("health"), 0)
    assert "left its responses unread" in caplog.text and "Traceback" not in caplog.text


def test_connection_without_a_preface_leaves_others_alone(open_to_all: Gateway) -> None:
    host, _, port = open_to_all.address.rpartition(":")
    with ExitStack() as stack:
        for _ in range(CALLS):
            stack.enter_context(socket.create_connection((host, int(port))))
        assert_admitted(open_to_all.address, None)


@pytest.mark.parametrize(
    "method",
    [
        *(f"{API}{name}" for name in ("Segment", "SegmentStream", "AddClass", "RemoveClass")),
        *(CHECK, WATCH, REFLECTION),
    ],
)
def test_malformed_message_is_an_invalid_argument(
    open_to_all: Gateway, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with grpc.insecure_channel(open_to_all.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            list(channel.stream_stream(method)(iter([b"\x0a\xff\xff\xff\xff"]), timeout=60))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith("request: got 5 bytes that are no such message, exp")
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    "method", ["/x\xff", f"{API}Segment\xff", "/x\x1b", "no path", f"{API}None"]
)
def test_unknown_method_leaves_others_alone(
    open_to_all: Gateway, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with RawConnection(open_to_all.address) as strange:
        strange.call("", b"", **{":path": method.encode("latin-1")})
        assert not strange.is_ended_within(0.2)
        assert_admitted(open_to_all.address, None)
    with grpc.insecure_channel(open_to_all.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(f"{API}None")(b"", timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "Traceback" not in caplog.text


def test_unary_call_that_ends_without_a_message_is_an_invalid_argument(
    open_to_all: Gateway,
) -> None:
    with grpc.insecure_channel(open_to_all.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            list(channel.stream_stream(f"{API}Segment")(iter([]), timeout=60))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith("request: got no message, expected one")


def test_stream_before_a_malformed_message_is_answered(open_to_all: Gateway) -> None:
    good = pb.SegmentRequest(request_id="good").SerializeToString()
    with grpc.insecure_channel(open_to_all.address) as channel:
        responses = channel.stream_stream(
            f"{API}SegmentStream", response_deserializer=pb.SegmentStreamResponse.FromString
        )(iter([good, b"\xff"]), timeout=60)
        assert next(responses).request_id == "good"
        with pytest.raises(grpc.RpcError) as caught:
            next(responses)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_refused_request_id_is_not_logged_whole(
    open_to_all: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with grpc.insecure_channel(open_to_all.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            pb_grpc.SegmentationStub(channel).Segment(
                pb.SegmentRequest(request_id="\x1b[31m" + "i" * 10_000), timeout=60
            )
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(caplog.text) < 2000 and "\x1b" not in caplog.text
    wait_for(open_to_all, OPEN.format("api"), 0)
