"""The application of the HTTP front without a gateway, and its problems."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
from starlette.testclient import TestClient

from benchmarks.http.front import Front
from serving.http.app import create_app
from serving.http.config import HttpConfig

NOBODY = "127.0.0.1:1"
"""Address at which no gateway listens."""
BASE = "http://127.0.0.1:8080"


@contextmanager
def front_without_gateway(**changes: Any) -> Iterator[TestClient]:
    """A client of the application in this process, whose gateway cannot be reached."""
    config = replace(HttpConfig(gateway=NOBODY), **changes)
    with TestClient(create_app(config), base_url=BASE) as client:
        yield client


def wait_for_front(front: Front, line: str, value: float) -> None:
    """Wait until a front that runs shows a value, which it counts after its response."""
    deadline = time.monotonic() + 60
    while (found := front.metric(line)) != value:
        assert time.monotonic() < deadline, f"{line} stays at {found}, expected {value}"
        time.sleep(0.02)


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def problem_of(answer: httpx.Response | Any) -> dict[str, Any]:
    """The problem that an answer is, which its status and id agree with."""
    assert answer.headers["content-type"] == "application/problem+json"
    record: dict[str, Any] = answer.json()
    assert record["status"] == answer.status_code
    assert record["request_id"] == answer.headers["x-request-id"]
    return record
