"""A file server on the loopback, with good and bad habits, and the command that asks it."""

from __future__ import annotations

import hashlib
import random
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cpcsam.model.official_checkpoints import OfficialCheckpoint
from training.checkpoints import main

CONTENT = random.Random(0).randbytes(1_000_003)
OTHER = b"x" + CONTENT[1:]
NAME = "sam_vit_x_000000.pth"
PATIENCE_S = 60.0


@dataclass
class Served:
    """A file server's file and habits, and the requests it has had."""

    content: bytes = CONTENT
    ranges: bool = True
    tells_length: bool = True
    breaks_after: list[int] = field(default_factory=list)
    """Bytes after which the connection of each request in turn is broken."""
    hangs: bool = False
    """Whether a connection stays open after its answer, or what there is of it, until the end."""
    ended: threading.Event = field(default_factory=threading.Event)
    status: int | None = None
    requests: list[str | None] = field(default_factory=list)
    """The Range header of every request."""
    url: str = ""


def handler_of(served: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802 (the name that http.server calls)
            wanted = self.headers.get("Range")
            served.requests.append(wanted)
            if self.path == "/elsewhere":
                self.send_response(302)
                self.send_header("Location", "/file")
                self.end_headers()
                return
            if served.status is not None or self.path != "/file":
                self.send_error(served.status or 404)
                return
            start = 0
            if served.ranges and wanted is not None:
                start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
                if start >= len(served.content):
                    self.send_error(416)
                    return
                self.send_response(206)
                last, total = len(served.content) - 1, len(served.content)
                self.send_header("Content-Range", f"bytes {start}-{last}/{total}")
            else:
                self.send_response(200)
            body = served.content[start:]
            if served.tells_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if served.breaks_after:
                body = body[: served.breaks_after.pop(0)]
            with suppress(ConnectionError):  # the client may refuse what comes
                self.wfile.write(body)
            if served.hangs:
                served.ended.wait(PATIENCE_S)

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    return Handler


@contextmanager
def file_server() -> Iterator[Served]:
    """Serve `CONTENT` until the end; what is changed in the answer holds for the next request."""
    served = Served()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler_of(served)) as server:
        served.url = f"http://127.0.0.1:{server.server_port}/file"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield served
        finally:
            served.ended.set()
            server.shutdown()
            thread.join()


def entry(url: str, size: int = len(CONTENT)) -> OfficialCheckpoint:
    return OfficialCheckpoint("vit_x", NAME, size, hashlib.sha256(CONTENT).hexdigest(), url)


def run(*arguments: str | Path, known: OfficialCheckpoint) -> int:
    return main([str(argument) for argument in arguments], {known.model_size: known})


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line on stderr that is not a progress bar."""
    lines = re.split(r"[\r\n]", capsys.readouterr().err)
    (line,) = [line for line in lines if line and not line.startswith(NAME)]
    return line
