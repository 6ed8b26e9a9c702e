"""Command that runs Triton and the gateway together and leaves no process behind."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import ssl
import time
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import httpx
import numpy as np
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

from benchmarks.chaos.services import roles_below
from benchmarks.serving.ports import answers, listeners, processes_below
from cpcsam.artifacts.versions import switch_to
from cpcsam.client import Prompt, SegmentationClient, encode_image
from cpcsam.errors import ServingError
from cpcsam.grpc_errors import AuthenticationError
from export.triton_repository.publishing import build_repository
from serving.supervision import child_process
from serving.supervision.child_process import supervised
from serving.supervision.ports import reserved_ports
from serving.supervision.restarts import RestartLog, count_restarts
from tests.support.servers.gateway_watch import make_certificate
from tests.support.servers.http_front import base64_of
from tests.support.servers.serve_command import (
    command,
    printed,
    require_end_of_both,
    run_in_turn,
    running,
    served,
    token_file,
    wait_for_another,
    wait_until_closed,
    wait_until_gone,
)
from tests.support.servers.trace_collector import (
    RPC,
    require_spans_of_a_call,
    trace_collector,
    tracing_application,
)

pytestmark = pytest.mark.triton

IMAGE = np.zeros((20, 30, 3), np.uint8)


def test_serve_command_starts_and_stops_both_and_traces_calls_through_all_programs(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trace_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        options = ["--log-format", "json", "--triton-traces", collector.http_url]
        options += ["--tokens", str(token_file(tmp_path))]
        exporter = OTLPSpanExporter(collector.endpoint, insecure=True)
        with (
            served(repository, tmp_path, *options) as (process, address),
            tracing_application(exporter) as tracer,
        ):
            url = printed(process, "http")
            with SegmentationClient(address, timeout_s=60, token="the-token") as client:
                assert client.healthy()
                for value in range(8):  # other images, so that none is in the cache
                    with tracer.start_as_current_span("scan"):
                        answer = client.segment(IMAGE + np.uint8(value), [Prompt.click(3, 4)] * 17)
                    assert len(answer.masks) == 17
            traces = {flags: secrets.token_hex(16) for flags in ("01", "00")}
            image_bytes = base64_of(encode_image(IMAGE))
            body = {"image_bytes": image_bytes, "prompts": [{"points": [{"x": 3, "y": 4}]}]}
            for flags, trace_id in traces.items():
                parent = f"00-{trace_id}-{'ab' * 8}-{flags}"
                headers = {"traceparent": parent, "x-request-id": f"scan {flags}"}
                headers["authorization"] = "Bearer the-token"
                response = httpx.post(f"{url}v1/segment", json=body, headers=headers, timeout=60)
                assert response.status_code == 200
                assert response.headers["x-request-id"] == f"scan {flags}"
            called = collector.whole_call("scan", triton_requests=2)  # segment and decode
            require_end_of_both(process, signal.SIGINT, tmp_path)
    require_spans_of_a_call(collector, called)
    scans = {span.trace_id for span in collector.spans if span.name == "scan"}
    assert len(scans) == 8
    assert {span.trace_id for span in collector.spans} == {*scans, traces["01"]}
    by_http = [span for span in collector.spans if span.trace_id == traces["01"]]
    (front,) = (span for span in by_http if span.service == "cpcsam-http" and RPC not in span.name)
    assert (front.name, front.parent_id) == ("POST /v1/segment", "ab" * 8)
    assert [front.name, RPC, RPC, "queue"] in map(collector.path, by_http)
    log = (tmp_path / "stderr").read_text()
    assert "the-token" not in collector.text + log
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    for flags, trace_id in traces.items():
        of_request = [line for line in lines if line.get("request_id") == f"scan {flags}"]
        assert [(line["method"], line["code"]) for line in of_request] == [
            ("Segment", "OK"),
            ("POST", 200),
        ]
        assert {line["trace_id"] for line in of_request} == {trace_id}


def test_serve_command_exposes_only_gateway_and_metrics_and_stops_on_sigterm(
    repository: Path, tmp_path: Path
) -> None:
    """A server on all addresses also answers at 127.0.0.2, one on 127.0.0.1 does not."""
    files = make_certificate(tmp_path)
    options = {
        "--host": "0.0.0.0",
        "--metrics-host": "0.0.0.0",
        "--tokens": token_file(tmp_path),
        "--tls-cert": files.certificate,
        "--tls-key": files.key,
    }
    words = [str(word) for pair in options.items() for word in pair]
    with served(repository, tmp_path, *words) as (process, address):
        assert process.stdout is not None
        metrics = next(line for line in process.stdout if line.startswith("metrics"))
        assert printed(process, "http")
        published = {int(text.rpartition(":")[2].split("/")[0]) for text in (address, metrics)}
        found = {
            listener.port: listener.address for listener in listeners(processes_below(process.pid))
        }
        own = "Triton has three ports of its own, the HTTP front two"
        assert published < found.keys() and len(found) == 7, own
        assert {found[port] for port in found.keys() - published} == {"127.0.0.1"}
        assert {port for port in found if answers("127.0.0.2", port)} == published
        gateway = f"127.0.0.2:{address.rpartition(':')[2]}"
        reach = partial(SegmentationClient, gateway, ca=files.certificate, timeout_s=30)
        with reach(token="the-token") as known:
            assert len(known.segment(IMAGE, [Prompt.click(3, 4)]).masks) == 1
        with reach() as unknown, pytest.raises(AuthenticationError):
            unknown.segment(IMAGE, [Prompt.click(3, 4)])
        require_end_of_both(process, signal.SIGTERM, tmp_path)
    for log in ("stderr", "triton.log"):
        assert "the-token" not in (tmp_path / log).read_text()


FRONT = r"-m serving\.http "
STEP = r"triton_python_backend_stub \S+/decoder/"
SERVER = r"^\S+/bin/tritonserver "
GATEWAY = r"-m serving\.gateway "


def test_serve_command_restarts_whatever_is_killed(repository: Path, tmp_path: Path) -> None:
    with served(repository, tmp_path) as (process, address):
        assert process.stdout is not None
        metrics = next(line.split()[1] for line in process.stdout if line.startswith("metrics"))
        gateway = running(process.pid, GATEWAY)
        with SegmentationClient(address, timeout_s=60) as client:
            for words in (STEP, SERVER, GATEWAY):
                victim = running(process.pid, words)
                os.kill(victim, signal.SIGKILL)
                wait_for_another(process.pid, words, victim)
                # The client repeats what is UNAVAILABLE, at the same address, until its time limit.
                assert len(client.segment(IMAGE, [Prompt.click(3, 4)]).masks) == 1
                if words != GATEWAY:
                    assert running(process.pid, GATEWAY) == gateway, "it went on"
        with urlopen(metrics) as page:
            counts = re.findall(
                r'restarts_total\{cause="(\w+)",program="(\w+)"\} 1', page.read().decode()
            )
        assert sorted(counts) == [("exit", "gateway"), ("exit", "triton"), ("step", "triton")]
        victim = running(process.pid, SERVER)
        os.kill(victim, signal.SIGKILL)
        wait_for_another(process.pid, SERVER, victim)
        require_end_of_both(process, signal.SIGTERM, tmp_path)  # while Triton loads its models
    log = (tmp_path / "stderr").read_text()
    assert "Triton: the process of its step decoder ended" in log
    assert "Triton: it ended with exit status -9" in log
    assert "gateway: exit status -9" in log


def test_serve_command_serves_http_which_calls_its_gateway_and_is_restarted(
    repository: Path, tmp_path: Path
) -> None:
    files, tokens = make_certificate(tmp_path, addresses=()), token_file(tmp_path)
    words = ["--tokens", tokens, "--tls-cert", files.certificate, "--tls-key", files.key]
    with served(repository, tmp_path, *map(str, words)) as (process, _):
        url = printed(process, "http")
        assert url.startswith("https://127.0.0.1:"), "it has the gateway's certificate"
        trusted = ssl.create_default_context(cafile=files.certificate)
        trusted.check_hostname = False  # it is for a name, not for 127.0.0.1
        with httpx.Client(base_url=url, verify=trusted, timeout=60) as client:
            assert client.get("/health/ready").status_code == 200
            assert client.get("/v1/describe").status_code == 401
            headers = {"authorization": "Bearer the-token"}
            assert client.get("/v1/describe", headers=headers).status_code == 200
        victim = running(process.pid, FRONT)
        os.kill(victim, signal.SIGKILL)
        wait_for_another(process.pid, FRONT, victim)
        transport = httpx.HTTPTransport(verify=trusted, retries=8)  # for a minute
        with httpx.Client(base_url=url, transport=transport, timeout=60) as client:
            assert client.get("/health/live").json() == {"status": "live"}
        require_end_of_both(process, signal.SIGTERM, tmp_path)
    assert "http: exit status -9" in (tmp_path / "stderr").read_text()


def test_serve_command_restarts_with_what_it_served_and_ends_when_that_is_gone(
    graphs: Path, tmp_path: Path
) -> None:
    store, log = tmp_path / "store", tmp_path / "stderr"
    build_repository(graphs, store)
    shutil.copytree(store / "1", store / "2")
    (store / "2/image_encoder/1/model.onnx").write_bytes(b"altered")
    with served(store, tmp_path) as (process, address):
        switch_to(store, 2)
        deadline = time.monotonic() + 60
        while "version refused" not in log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        first = rf"^\S+/bin/tritonserver --model-repository={store}/1 "
        victim = running(process.pid, first)
        os.kill(victim, signal.SIGKILL)
        wait_for_another(process.pid, first, victim)
        with SegmentationClient(address, timeout_s=60) as client:
            client.segment(IMAGE, [Prompt.click(3, 4)])  # all models are loaded then
        shutil.rmtree(store)
        os.kill(running(process.pid, first), signal.SIGKILL)
        assert process.wait(120) == 2
    message = log.read_text()
    assert re.search(r"^python -m serving\.serve: .*no manifest", message, re.M)
    assert "Traceback" not in message
    wait_until_gone(tmp_path / "triton.log")


def test_serve_command_ends_with_everything_when_it_is_killed(
    repository: Path, tmp_path: Path
) -> None:
    with served(repository, tmp_path) as (process, address):
        children = processes_below(process.pid)
        assert len(children) > 5
        process.kill()
        wait_until_gone(tmp_path / "triton.log")
        wait_until_closed(address)


def test_serve_refuses_options_before_triton_starts(repository: Path, tmp_path: Path) -> None:
    log = tmp_path / "triton.log"
    taken = socket.create_server(("127.0.0.1", 0))
    port = str(taken.getsockname()[1])
    refused = (
        (["--port", port], f"--port: got {port} ([Errno 98] Address already in use)"),
        (["--max-prompts", "0"], "max_prompts: got 0, expected at least 1"),
        (["--port", "70000"], "expected a port from 0 to 65535"),
        (["--tokens", str(tmp_path / "none")], "expected a file of tokens"),
        (["--tls-key", str(tmp_path / "none")], "TLS: got --tls-key alone"),
        (["--repository", str(tmp_path)], "no manifest.json"),
        (["--host", "0.0.0.0"], "--host: got 0.0.0.0 without --tokens"),
        (["--http-host", "0.0.0.0"], "--http-host: got 0.0.0.0 without --tokens"),
        (["--http-port", port], f"--http-port: got {port}"),
        (["--metrics-port=9", "--http-metrics-port=9"], "port: got 9, as --http-metrics-port"),
        (["--triton-http-port", port], f"--triton-http-port: got {port} ([Errno 98]"),
    )
    codes, errors = run_in_turn([[*command(repository, log), *options] for options, _ in refused])
    assert codes == [2] * len(refused), errors
    for (_, message), told in zip(refused, errors, strict=True):
        assert message in told
    assert not log.exists()
    taken.close()


def test_gateway_that_does_not_start_is_not_restarted(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(ServingError, match=r"serving\.gateway: got exit status 2"),
        supervised("gateway", ["--port", "70000"], RestartLog(), grace_s=1.0),
    ):
        pass
    assert capfd.readouterr().err.count("expected a port from 0 to 65535") == 1


@pytest.mark.parametrize(("program", "server"), [("gateway", "--triton"), ("http", "--gateway")])
def test_program_that_stands_still_is_restarted(
    program: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_process, "SILENCE_S", 8.0)
    restarts = RestartLog()
    with reserved_ports("127.0.0.1", {"--port": 0, "--metrics-port": 0}) as ports:
        options = [f"{option}={number}" for option, number in ports.items()]
        with supervised(program, [server, "127.0.0.1:9", *options], restarts, grace_s=1.0):

            def listening() -> list[int]:
                return roles_below(os.getpid(), ports["--port"]).get("gateway", [])

            (hung,) = listening()
            os.kill(hung, signal.SIGSTOP)
            deadline = time.monotonic() + 120
            while listening() in ([], [hung]):
                assert time.monotonic() < deadline, "it is not started again"
                time.sleep(0.1)
    counts = count_restarts(Path(f"/proc/self/fd/{restarts.descriptor}"))
    assert counts[program, "silence"] and not counts[program, "exit"]
