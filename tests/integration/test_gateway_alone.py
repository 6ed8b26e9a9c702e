"""Gateway without Triton or with a silent one: errors, deadlines, permits and shutdown."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from cpcsam.cli.main import main as cli
from cpcsam.client import Prompt, SegmentationClient, encode_image
from cpcsam.errors import ServingError
from cpcsam.grpc_errors import DeadlineError, FullError, LimitError, UnavailableError
from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from serving.gateway.limits import Limits
from serving.gateway.run import _fail_at_end_of, gateway_in_background
from serving.gateway.server import Gateway, GatewayConfig, start_gateway
from tests.support.paths import ROOT
from tests.support.servers.gateway_watch import free_port, metric, silent_triton, wait_for

IMAGE = np.zeros((20, 30, 3), np.uint8)
CLICK = [Prompt.click(3, 4)]


def config(triton: str, **options: object) -> GatewayConfig:
    return GatewayConfig(triton=triton, port=0, metrics_port=0, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def without_triton() -> Iterator[Gateway]:
    with gateway_in_background(config(f"127.0.0.1:{free_port()}")) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def silent() -> Iterator[Gateway]:
    """A gateway whose Triton accepts connections and never responds."""
    with (
        silent_triton() as triton,
        gateway_in_background(config(triton, limits=Limits(max_in_flight=2))) as gateway,
    ):
        yield gateway


def test_segment_without_triton_is_unavailable(without_triton: Gateway) -> None:
    with SegmentationClient(without_triton.address, timeout_s=60, retry=False) as client:
        for call in (client.describe, lambda: client.segment(IMAGE, CLICK)):
            with pytest.raises(UnavailableError, match="^inference server: got none that is ready"):
                call()
        assert not client.healthy()


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_gateway_listens_on_ipv6_with_and_without_brackets(host: str) -> None:
    with gateway_in_background(config("127.0.0.1:9", host=host, metrics_host=host)) as gateway:
        assert gateway.address.startswith("[::1]:")
        with SegmentationClient(gateway.address, timeout_s=60) as client:
            assert not client.healthy()
        assert metric(gateway, "cpcsam_prompts_total") == 0


def test_describe_without_triton_is_retried_until_the_deadline(without_triton: Gateway) -> None:
    line = 'cpcsam_request_seconds_count{code="UNAVAILABLE",method="Describe"}'
    before = metric(without_triton, line) or 0
    # The deadline may also cut an attempt short.
    with (
        SegmentationClient(without_triton.address, timeout_s=5) as client,
        pytest.raises((UnavailableError, DeadlineError)),
    ):
        client.describe()
    assert (metric(without_triton, line) or 0) - before >= 3


def test_health_without_triton_is_not_serving(without_triton: Gateway) -> None:
    with grpc.insecure_channel(without_triton.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "cpcsam.v1.Segmentation"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=60)
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_segment_with_invalid_input_is_refused_without_triton(without_triton: Gateway) -> None:
    with grpc.insecure_channel(without_triton.address) as channel:
        stub = pb_grpc.SegmentationStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Segment(pb.SegmentRequest(), timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith(
        "prompts, classes and everything: got none, expected one of them; "
    )


def test_segment_with_a_silent_triton_keeps_its_deadline(silent: Gateway) -> None:
    with SegmentationClient(silent.address, timeout_s=0.5) as client:
        started = time.monotonic()
        with pytest.raises(
            DeadlineError, match="expected an answer within 0.5 s|expected an answer in time"
        ):
            client.segment(IMAGE, CLICK)
        assert time.monotonic() - started > 0.4
    wait_for(silent, "cpcsam_in_flight_requests", 0)


def test_segment_when_full_is_refused_at_once_and_cancellation_frees_the_permit(
    silent: Gateway,
) -> None:
    message = pb.SegmentRequest(
        image_bytes=encode_image(IMAGE), prompts=[pb.Prompt(points=[pb.Point(x=1, y=1)])]
    )
    cancelled = 'cpcsam_request_seconds_count{code="CANCELLED",method="Segment"}'
    before = metric(silent, cancelled) or 0
    with grpc.insecure_channel(silent.address) as channel:
        stub = pb_grpc.SegmentationStub(channel)
        waiting = [stub.Segment.future(message, timeout=60) for _ in range(2)]
        wait_for(silent, "cpcsam_in_flight_requests", 2)
        with (
            SegmentationClient(silent.address, timeout_s=60, retry=False) as client,
            pytest.raises(FullError, match="requests in flight: got 2 already, expected") as full,
        ):
            client.segment(IMAGE, CLICK)
        assert 0 < full.value.retry_s <= 5
        status = rpc_status.from_call(full.value.__cause__)
        retry, info = error_details_pb2.RetryInfo(), error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info) and status.details[1].Unpack(retry)
        assert (info.reason, info.domain) == ("FULL", "cpcsam.v1")
        assert retry.retry_delay.ToMilliseconds() == round(full.value.retry_s * 1e3)
        for call in waiting:
            call.cancel()
        wait_for(silent, "cpcsam_in_flight_requests", 0)
    wait_for(silent, 'cpcsam_rejected_total{reason="in_flight"}', 1)
    wait_for(silent, cancelled, before + 2)


def test_describe_without_a_deadline_ends() -> None:
    with (
        silent_triton() as triton,
        gateway_in_background(config(triton, max_seconds=0.3)) as gateway,
        grpc.insecure_channel(gateway.address) as channel,
    ):
        with pytest.raises(grpc.RpcError) as caught:
            pb_grpc.SegmentationStub(channel).Describe(pb.DescribeRequest())
        line = 'cpcsam_request_seconds_count{code="DEADLINE_EXCEEDED",method="Describe"}'
        wait_for(gateway, line, 1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_segment_beyond_the_message_size_is_refused() -> None:
    limits = Limits(max_image_bytes=1000)
    with (
        gateway_in_background(config(f"127.0.0.1:{free_port()}", limits=limits)) as gateway,
        SegmentationClient(gateway.address, timeout_s=60) as client,
    ):
        with pytest.raises(LimitError, match="image_bytes: got 2000 bytes, expected at most 1000"):
            client.segment(bytes(2000), CLICK)
        with pytest.raises(LimitError, match="larger than max"):
            client.segment(bytes(limits.max_message_bytes + 1), CLICK)
        with pytest.raises(LimitError, match="prompts: got 10000, expected at most 256"):
            client.segment(bytes(1000), CLICK * 10_000)


def test_start_gateway_with_a_busy_port_names_it(without_triton: Gateway) -> None:
    host, _, port = without_triton.address.partition(":")
    busy = GatewayConfig(host=host, port=int(port), metrics_port=0)
    with (
        pytest.raises(ServingError, match=rf"port: got {without_triton.address}"),
        gateway_in_background(busy),
    ):
        pytest.fail("two gateways listen at the same address")


@pytest.mark.parametrize("option", ["--port", "--metrics-port"])
def test_gateway_command_with_a_busy_port_prints_one_line(option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        free = {"--port": "0", "--metrics-port": "0"} | {option: port}
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "serving.gateway",
                *(word for pair in free.items() for word in pair),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("python -m")]
    assert len(errors) == 1 and port in errors[0] and "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_gateway_command_stops_on_a_signal(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.gateway", "--port", "0", "--metrics-port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[1]
        with SegmentationClient(address, timeout_s=60) as client:
            assert not client.healthy()
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0 and "Traceback" not in errors


async def test_end_of_the_grpc_server_ends_the_command() -> None:
    async with start_gateway(config(f"127.0.0.1:{free_port()}")) as gateway:
        watch = asyncio.create_task(_fail_at_end_of(gateway))
        server = gateway.wait_for_end.__self__  # type: ignore[attr-defined]
        await server.stop(None)
        with pytest.raises(ServingError, match="gRPC server: got its end"):
            await asyncio.wait_for(watch, 60)


def test_gateway_when_stopped_finishes_running_requests() -> None:
    with silent_triton() as triton, ThreadPoolExecutor(1) as pool:
        with gateway_in_background(config(triton, max_seconds=3, grace_s=10)) as gateway:
            client = SegmentationClient(gateway.address, timeout_s=60)
            answer = pool.submit(client.segment, IMAGE, CLICK)
            wait_for(gateway, "cpcsam_in_flight_requests", 1)
        # The gateway's own answer, not a broken connection.
        with pytest.raises(DeadlineError, match="got no answer within 3 s"):
            answer.result()
        client.close()


def test_status_command_without_a_server_prints_one_line(
    without_triton: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["status", "--address", without_triton.address, "--timeout", "10"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cpcsam status: inference server: got none") and error.count("\n") == 1
