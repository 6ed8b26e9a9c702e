"""Forms whose parts must keep their bytes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request

from serving.http.bodies import Room, read_form
from serving.http.config import HttpConfig
from serving.http.metrics import HttpMetrics

CONTENT = bytes(range(256))


def form_request(body: bytes, kind: str) -> Request:
    """A request whose body comes as one chunk."""
    app = Starlette()
    app.state.config = HttpConfig()
    app.state.metrics = HttpMetrics()
    app.state.room = Room(1 << 20, app.state.metrics)
    scope = {
        "type": "http",
        "headers": [(b"content-type", kind.encode())],
        "app": app,
        "state": {"held_bytes": 0},
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(scope, receive)


@pytest.mark.parametrize("file", ["", '; filename="a.png"'])
@pytest.mark.parametrize("charset", ["", "; charset=utf-16", "; charset=rot13"])
def test_part_keeps_its_bytes_with_and_without_a_file_name(file: str, charset: str) -> None:
    head = f'--a\r\nContent-Disposition: form-data; name="image"{file}\r\n\r\n'
    request = form_request(
        head.encode() + CONTENT + b"\r\n--a--\r\n", f"multipart/form-data; boundary=a{charset}"
    )
    assert asyncio.run(read_form(request, max_parts=1)) == {"image": CONTENT}
