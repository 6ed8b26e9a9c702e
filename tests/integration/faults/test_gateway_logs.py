"""Log lines: control characters, secrets in gRPC's own messages, and what gRPC's core prints."""

from __future__ import annotations

import logging
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest

from benchmarks.chaos.hostile.wire import frame
from serving.common.logs import GRPC_LOGGER, LineFormatter, guard_grpc_logger
from tests.support.paths import ROOT
from tests.support.servers.raw_http2 import GOAWAY, RawConnection

ESCAPE = "\x1b[31m"
GATEWAY = [sys.executable, "-m", "serving.gateway", "--port", "0", "--metrics-port", "0"]


def formatted(message: str, error: Exception | None = None) -> str:
    cause = (type(error), error, None) if error is not None else None
    record = logging.LogRecord("x", logging.INFO, __file__, 1, message, None, cause)  # type: ignore[arg-type]
    return LineFormatter().format(record)


def test_line_shows_no_control_characters() -> None:
    line = formatted(f"a{ESCAPE}b\r\nforged\u202e \udcff é")
    assert line.isprintable() and line.isascii() is False
    assert r"a\x1b[31mb\r\nforged\u202e \udcff é" in line
    assert len(formatted("x" * 1_000_000)) < 5000


def test_traceback_keeps_its_lines_and_shows_no_control_characters() -> None:
    text = formatted("failed", ValueError(f"{ESCAPE} of a caller"))
    assert text.splitlines()[-1] == r"ValueError: \x1b[31m of a caller"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The log of `process`."""
    return tmp_path / "log"


@pytest.fixture
def process(file: Path) -> Iterator[subprocess.Popen[bytes]]:
    with file.open("wb") as log:
        process = subprocess.Popen(GATEWAY, cwd=ROOT, stdout=subprocess.PIPE, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_gateway_logs_nothing_that_a_peer_sends_outside_of_requests(
    process: subprocess.Popen[bytes], file: Path
) -> None:
    assert process.stdout is not None
    address = process.stdout.readline().split()[1].decode()
    with RawConnection(address) as peer:
        peer.call("/cpcsam.v1.Segmentation/Describe", b"", authorization=b"Bearer secret\xff")
        peer.call(f"/secret{ESCAPE}", b"", authorization=f"Bearer secret{ESCAPE}".encode())
        text = f"secret{ESCAPE}\nforged line".encode()
        peer.socket.sendall(frame(GOAWAY, 0, 0, struct.pack(">II", 0, 11) + text))
        assert peer.has_read_all_within(60)
        deadline = monotonic() + 60
        while b"metadata that is not UTF-8, not shown" not in file.read_bytes():
            assert monotonic() < deadline, file.read_text()
            sleep(0.05)
    process.terminate()
    assert process.wait(120) == 0
    log = file.read_bytes()
    for foreign in (b"secret", ESCAPE.encode(), b"forged", b"Traceback"):
        assert foreign not in log, log


def test_guarded_logger_keeps_other_messages(caplog: pytest.LogCaptureFixture) -> None:
    guard_grpc_logger()
    logging.getLogger(GRPC_LOGGER).error("Invalid encoding on %s", b"secret")
    logging.getLogger(GRPC_LOGGER).error("another %s", "message")
    assert caplog.messages == ["metadata that is not UTF-8, not shown", "another message"]
