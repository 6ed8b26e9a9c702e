"""The check of a running Triton by inference, before a server that counts as Triton does."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest

from serving.triton import faults, supervisor


class Counts(ThreadingHTTPServer):
    """Answers like Triton's statistics and inference of `segment`.

    Attributes:
        looks: how often the statistics were read.
        inferences: number of tiny images.
        answers: (count, ns) of the statistics at each look; the last one stays.
        status: of the answers to inference.
    """

    def __init__(self, answers: list[tuple[int, int]], status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.looks = self.inferences = 0
        self.answers, self.status = answers, status


class _Handler(BaseHTTPRequestHandler):
    server: Counts

    def do_GET(self) -> None:
        count, ns = self.server.answers[min(self.server.looks, len(self.server.answers) - 1)]
        self.server.looks += 1
        success = {"success": {"count": count, "ns": ns}}
        self._answer(200, json.dumps({"model_stats": [{"inference_stats": success}]}).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.inferences += 1
        self._answer(self.server.status, b"{}")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


Check: TypeAlias = "tuple[Counts, faults._InferenceCheck]"


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Check]]:
    monkeypatch.setattr(faults, "CHECK_PERIOD_S", 0.05)
    monkeypatch.setattr(faults, "RETRY_S", 0.01)
    started: list[Check] = []

    def start(answers: list[tuple[int, int]], status: int = 200) -> Check:
        server = Counts(answers, status)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append((server, faults._InferenceCheck(f"127.0.0.1:{server.server_port}")))
        return started[-1]

    yield start
    for server, checking in started:
        checking.stop()
        server.shutdown()
        server.server_close()


def until(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + 60
    while not condition():
        assert monotonic() < deadline
        sleep(0.01)


def test_a_first_request_that_takes_long_gets_no_company(check: Callable[..., Check]) -> None:
    server, _ = check([(0, 0), (1, 8_000_000_000)])
    until(lambda: server.looks == 2)
    sleep(0.3)
    assert (server.looks, server.inferences) == (2, 0), "the next look is minutes later"


def test_a_silent_server_is_asked_and_one_that_fails_is_faulty(check: Callable[..., Check]) -> None:
    well, _ = check([(0, 0)])
    ill, checking = check([(0, 0)], 500)
    until(lambda: well.inferences >= 2 and checking.failure is not None)
    assert checking.failure is not None and checking.failure.startswith(
        "a tiny image failed 3 times"
    )
    assert ill.inferences == 3 and well.looks >= 2 * well.inferences


def test_a_server_in_use_is_left_alone(check: Callable[..., Check]) -> None:
    server, _ = check([(count, count * 1_000_000) for count in range(5)] + [(5, 5_000_000)] * 100)
    until(lambda: server.inferences > 0)
    assert server.looks >= 7


def test_restart_that_the_system_refuses_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launches = iter([None, OSError(errno.EAGAIN, "Resource temporarily unavailable"), None])

    @contextmanager
    def launch(repository: Path, slot: int) -> Iterator[Any]:
        if (error := next(launches)) is not None:
            raise error
        yield SimpleNamespace(process=SimpleNamespace(pid=os.getpid()), grpc_url="127.0.0.1:1")

    told: list[faults.Fault] = []
    monkeypatch.setattr(supervisor.time, "sleep", lambda seconds: None)
    triton = supervisor.SupervisedTriton(tmp_path, launch, told.append, None)
    triton._restart(faults.Fault("exit", "it ended with exit status -9"), 100.0)
    assert [fault.cause for fault in told] == ["exit", "start"]
    assert "Resource temporarily unavailable" in told[1].text
    assert next(launches, "used up") == "used up"
