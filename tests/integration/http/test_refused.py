"""Problems of real calls: tokens, limits, time, clients that go, and gateways that do."""

from __future__ import annotations

import base64
import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from benchmarks.http.front import Front, running_front
from cpcsam.client import encode_image
from serving.gateway.run import gateway_in_background
from serving.gateway.server import Gateway, GatewayConfig
from serving.triton.launch import TritonServer
from tests.integration.gateway.asking import picture
from tests.integration.http.conftest import EDIT_TOKEN, TOKEN
from tests.support.paths import ROOT
from tests.support.servers.gateway_watch import free_port, metric, wait_for
from tests.support.servers.http_front import base64_of, problem_of, wait_for_front

pytestmark = pytest.mark.triton

IMAGE = encode_image(picture())
CLICK = {"image_bytes": base64_of(IMAGE), "prompts": [{"points": [{"x": 3, "y": 4}]}]}


@pytest.mark.parametrize(
    ("change", "status", "code", "field"),
    [
        ({"image_bytes": base64_of(b"text")}, 400, "INVALID_ARGUMENT", "image_bytes"),
        ({"prompts": [{}]}, 400, "INVALID_ARGUMENT", "prompts[0]"),
        ({"prompts": [{"points": [{"x": -1}]}]}, 400, "INVALID_ARGUMENT", "prompts[0].points[0]"),
        ({"prompts": [{"points": [{"x": 1}]}] * 49}, 429, "RESOURCE_EXHAUSTED", None),
        ({"image_bytes": base64_of(bytes(200_001))}, 429, "RESOURCE_EXHAUSTED", None),
        ({"prompts": [], "classes": ["none"]}, 400, "INVALID_ARGUMENT", "classes"),
    ],
)
def test_refusal_of_the_gateway_is_a_problem_with_its_message(
    http: httpx.Client, change: dict[str, object], status: int, code: str, field: str | None
) -> None:
    problem = problem_of(http.post("/v1/segment", json={**CLICK, **change}))
    assert (problem["status"], problem["code"], problem.get("field")) == (status, code, field)
    assert re.search(r": got .*expected .*; ", problem["detail"])
    assert "retry_after_s" not in problem, "it would fail again"


def test_unknown_image_id_is_not_found(http: httpx.Client) -> None:
    body = {"image_id": "0" * 64, "prompts": CLICK["prompts"]}
    assert problem_of(http.post("/v1/segment", json=body))["status"] == 404


def test_time_limit_of_the_caller_is_kept(http: httpx.Client) -> None:
    settings = {"points_per_side": 24, "min_iou": 0, "min_stability": 0}
    body = {"image_bytes": base64_of(encode_image(picture(9))), "everything": settings}
    headers = {"x-request-timeout": "0.2"}
    problem = problem_of(http.post("/v1/everything", json=body, headers=headers))
    # A server that knows its speed refuses at once what it could not answer in time.
    assert problem["code"] in ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": f"Bearer {TOKEN}"}, 200),
        ({"authorization": "Basic " + base64.b64encode(f"me:{TOKEN}".encode()).decode()}, 200),
        ({"authorization": "Basic " + base64.b64encode(b"me:wrong").decode()}, 401),
    ],
)
def test_token_is_checked_by_the_gateway(
    guarded_front: Front, guarded_log: Path, headers: dict[str, str], status: int
) -> None:
    answer = httpx.get(f"{guarded_front.url}/v1/describe", headers=headers, timeout=60)
    assert answer.status_code == status
    if status == 401:
        assert problem_of(answer)["code"] == "UNAUTHENTICATED"
        assert "Bearer" in answer.headers["www-authenticate"]
    log = guarded_log.read_text()
    assert TOKEN not in log and "wrong" not in log


def test_user_may_not_change_classes_and_an_editor_may(guarded_front: Front) -> None:
    url = f"{guarded_front.url}/v1/classes/none"
    user = httpx.delete(url, headers={"authorization": f"Bearer {TOKEN}"})
    assert problem_of(user)["code"] == "PERMISSION_DENIED"
    editor = httpx.delete(url, headers={"authorization": f"Bearer {EDIT_TOKEN}"})
    assert problem_of(editor)["code"] == "NOT_FOUND"


def test_health_needs_no_token(guarded_front: Front) -> None:
    assert httpx.get(f"{guarded_front.url}/health/ready", timeout=60).status_code == 200


def test_front_beyond_loopback_requires_a_gateway_with_tokens(http_gateway: Gateway) -> None:
    words = ["--gateway", http_gateway.address, "--host", "0.0.0.0", "--port", "0"]
    command = [sys.executable, "-m", "serving.http", *words, "--metrics-port", "0"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 2
    assert re.search(
        r"^python -m serving\.http: --host: got 0\.0\.0\.0 .*--allow-anonymous", done.stderr, re.M
    )


def test_anonymous_front_beyond_loopback_can_be_asked_for(
    http_gateway: Gateway, tmp_path: Path
) -> None:
    options = ("--host", "0.0.0.0", "--allow-anonymous")
    with running_front(http_gateway.address, tmp_path / "log", *options) as front:
        port = front.url.rpartition(":")[2]
        assert httpx.get(f"http://127.0.0.2:{port}/v1/describe", timeout=60).status_code == 200


def test_client_that_goes_cancels_the_call(front: Front, http_gateway: Gateway) -> None:
    wait_for(http_gateway, "cpcsam_in_flight_requests", 0)
    cancelled = 'cpcsam_request_seconds_count{code="CANCELLED",method="Segment"}'
    before = metric(http_gateway, cancelled) or 0
    line = 'cpcsam_http_request_seconds_count{code="499",method="POST",route="/v1/everything"}'
    gone = front.metric(line)
    # Seconds of work, so that it runs when it is seen.
    settings = {"points_per_side": 64, "min_iou": 0, "min_stability": 0}
    image = base64_of(encode_image(picture(11)))
    body = json.dumps({"image_bytes": image, "everything": settings})
    host, _, port = front.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/everything HTTP/1.1\r\nHost: {host}:{port}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body.encode())
        wait_for(http_gateway, "cpcsam_in_flight_requests", 1)
    wait_for_front(front, line, gone + 1)
    wait_for(http_gateway, cancelled, before + 1)
    wait_for_front(front, "cpcsam_http_in_flight_requests", 0)


def test_large_body_is_refused_and_its_sender_reads_why(http: httpx.Client) -> None:
    answer = http.post(
        "/v1/segment", content=bytes(3 * 2**20), headers={"content-type": "application/json"}
    )
    problem = problem_of(answer)
    assert (problem["status"], problem["code"]) == (413, "RESOURCE_EXHAUSTED")


@pytest.mark.parametrize("before", [b"", b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"])
def test_thousands_of_headers_are_refused_unread(front: Front, before: bytes) -> None:
    address = ("127.0.0.1", int(front.url.rpartition(":")[2]))
    lines = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"a: b\r\n" * 3000 + b"\r\n"
    with socket.create_connection(address) as connection:
        connection.settimeout(60)
        connection.sendall(before + lines)
        answers = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert b"400 Bad Request" in answers and b"more than 256 lines" in answers
    assert answers.count(b"HTTP/1.1 200") == len(before[:1])


def test_slow_bodies_headers_and_readers_are_ended(http_gateway: Gateway, tmp_path: Path) -> None:
    options = ("--upload-seconds", "0.5", "--unread-seconds", "0.5")
    with running_front(http_gateway.address, tmp_path / "log", *options) as front:
        address = ("127.0.0.1", int(front.url.rpartition(":")[2]))
        with socket.create_connection(address) as body, socket.create_connection(address) as head:
            head.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: 127.0.0.1\r\nX-")
            body.sendall(
                b"POST /v1/segment HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                b"Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
            )
            body.settimeout(60)
            assert b"408 Request Timeout" in body.recv(100)
            head.settimeout(60)
            try:
                assert head.recv(100) == b"", "the connection is closed"
            except ConnectionResetError:
                pass
        wait_for_front(front, 'cpcsam_http_rejected_total{reason="slow"}', 1)


def test_front_finds_a_gateway_that_comes_later_and_survives_its_end(
    triton: TritonServer, tmp_path: Path
) -> None:
    port = free_port()
    with running_front(f"127.0.0.1:{port}", tmp_path / "log") as front:
        assert httpx.get(f"{front.url}/health/ready", timeout=60).status_code == 503
        config = GatewayConfig(triton=triton.grpc_url, port=port, metrics_port=0)
        with gateway_in_background(config):
            deadline = time.monotonic() + 60
            while httpx.get(f"{front.url}/health/ready", timeout=60).status_code != 200:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert httpx.get(f"{front.url}/v1/describe", timeout=60).status_code == 200
        problem = problem_of(httpx.get(f"{front.url}/v1/describe", timeout=60))
        assert (problem["status"], problem["retry_after_s"]) == (503, 1.0)


def test_front_ends_on_sigterm_with_status_0_when_its_request_is_answered(
    http_gateway: Gateway, tmp_path: Path
) -> None:
    with running_front(http_gateway.address, tmp_path / "log") as front:
        with httpx.Client(timeout=60) as client:
            assert client.get(f"{front.url}/health/live").status_code == 200
            front.process.terminate()
            assert front.process.wait(60) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()
