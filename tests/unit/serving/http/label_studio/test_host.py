from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from cpcsam.errors import ConfigError, ContractError
from cpcsam.grpc_errors import ForbiddenError, LimitError, NotFoundError, UnavailableError
from serving.http.label_studio.host import LabelStudioHost
from serving.http.label_studio_config import LabelStudioConfig

LEGACY = "0123abcd"
PERSONAL = "e30.e30.signature"
IMAGE = b"image" * 40
NAME = "/data/upload/1/a.png"


@dataclass
class Studio:
    """A server with the parts of Label Studio's HTTP that images need."""

    port: int = 0
    access: str = "first"
    redirects: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def host(self, token: str = LEGACY, **limits: float) -> LabelStudioHost:
        return LabelStudioHost(LabelStudioConfig(self.url, token, **limits))  # type: ignore[arg-type]


@contextmanager
def running() -> Iterator[Studio]:
    studio = Studio()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            studio.seen.append((self.path, ""))
            known = self.path == "/api/token/refresh/" and body == {"refresh": PERSONAL}
            self.answer(200 if known else 401, json.dumps({"access": studio.access}).encode())

        def do_GET(self) -> None:
            token = self.headers["authorization"]
            studio.seen.append((self.path, token))
            if token not in (f"Token {LEGACY}", f"Bearer {studio.access}"):
                self.answer(401, b"")
            elif self.path in studio.redirects:
                self.answer(302, b"", studio.redirects[self.path])
            elif self.path == "/data/slow":
                self.send_response(200)
                self.end_headers()
                for _ in range(40):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
            elif self.path == "/data/cut":
                self.send_response(200)
                self.send_header("content-length", str(len(IMAGE)))
                self.end_headers()
                self.wfile.write(IMAGE[:-1])
            elif self.path == NAME:
                self.answer(200, IMAGE)
            else:
                self.answer(404, b"")

        def answer(self, status: int, body: bytes, location: str | None = None) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            if location is not None:
                self.send_header("location", location)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        studio.port = server.server_address[1]
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield studio
        server.shutdown()
        thread.join()


@pytest.fixture
def studio() -> Iterator[Studio]:
    with running() as server:
        yield server


def test_read_image_sends_a_legacy_token_as_it_is(studio: Studio) -> None:
    assert studio.host().read_image(NAME, 1) == IMAGE
    assert studio.host().read_image(studio.url + NAME, 1) == IMAGE
    assert studio.seen == [(NAME, f"Token {LEGACY}")] * 2


def test_read_image_exchanges_a_personal_token_until_it_expires(studio: Studio) -> None:
    host = studio.host(PERSONAL)
    assert [host.read_image(NAME, 1) for _ in range(2)] == [IMAGE] * 2
    studio.access = "second"
    assert host.read_image(NAME, 1) == IMAGE
    refresh = ("/api/token/refresh/", "")
    first, second = (NAME, "Bearer first"), (NAME, "Bearer second")
    assert studio.seen == [refresh, first, first, first, refresh, second]


@pytest.mark.parametrize("token", ["unknown", "e30.e30.other"])
def test_read_image_with_a_refused_token_is_forbidden(studio: Studio, token: str) -> None:
    with pytest.raises(ForbiddenError, match="status 401 for its token"):
        studio.host(token).read_image(NAME, 1)


def test_read_image_follows_redirects_on_the_same_server_alone(studio: Studio) -> None:
    with running() as elsewhere:
        studio.redirects = {
            "/data/near": NAME,
            "/data/far": elsewhere.url + NAME,
            "/data/inside": "/api/projects",
            "/data/round": "/data/round",
        }
        assert studio.host().read_image("/data/near", 1) == IMAGE
        for name in ("/data/far", "/data/inside"):
            with pytest.raises(ContractError, match="an address elsewhere"):
                studio.host().read_image(name, 1)
        with pytest.raises(UnavailableError, match="status 302"):
            studio.host().read_image("/data/round", 1)
        assert elsewhere.seen == []


def test_read_image_is_bounded_in_bytes_and_time(studio: Studio) -> None:
    assert studio.host(max_image_bytes=len(IMAGE)).read_image(NAME, 1) == IMAGE
    with pytest.raises(LimitError, match="more than 199 bytes"):
        studio.host(max_image_bytes=len(IMAGE) - 1).read_image(NAME, 1)
    with pytest.raises(UnavailableError, match="TimeoutError"):
        studio.host(read_s=0.3).read_image("/data/slow", 1)


def test_read_image_that_is_not_there(studio: Studio) -> None:
    with pytest.raises(NotFoundError, match="status 404"):
        studio.host().read_image("/data/upload/1/b.png", 1)


def test_read_image_from_nobody_is_unavailable() -> None:
    with running() as gone:
        host = gone.host()
    with pytest.raises(UnavailableError, match="ConnectionRefusedError"):
        host.read_image(NAME, 1)


def test_read_image_takes_no_part_for_the_whole(studio: Studio) -> None:
    with pytest.raises(UnavailableError, match="IncompleteRead"):
        studio.host().read_image("/data/cut", 1)


@pytest.mark.parametrize("url", ["http://h:port", "http://h:99999", "http://[", "ftp://h", "h:80"])
def test_config_refuses_a_url_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ConfigError, match="--label-studio-url"):
        LabelStudioConfig(url, LEGACY)
