"""Ids of requests, by which log lines of all processes and the caller's own belong together."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final
from uuid import uuid4

from cpcsam.tracing import Headers

__all__ = ["ID_KEY", "adopt_request_id", "current_request_id"]

ID_KEY: Final = "x-request-id"
"""Header of HTTP, and key of gRPC's metadata and of its trailing metadata."""
MAX_ID_LENGTH: Final = 128
_CURRENT: Final[ContextVar[str]] = ContextVar("request_id", default="")


def adopt_request_id(headers: Headers, own: str = "") -> str:
    """Choose the id of a request, which log lines of its task and of those that it starts show.

    It is the first of these that is fit for logs and headers, printable ASCII of at most
    `MAX_ID_LENGTH` characters: the caller's `x-request-id`, an id in the request itself, the one
    that the task has already; or else a new one.

    Args:
        headers: of the request, or its metadata.
        own: the id in the request.
    """
    given = next((value for name, value in headers if name == ID_KEY), "")
    request_id = next(filter(_is_fit, (given, own)), None) or _CURRENT.get() or uuid4().hex
    assert isinstance(request_id, str)
    _CURRENT.set(request_id)
    return request_id


def current_request_id() -> str:
    """Return the id of the request that is handled; empty outside of any."""
    return _CURRENT.get()


def _is_fit(text: str | bytes) -> bool:
    return (
        isinstance(text, str)
        and 0 < len(text) <= MAX_ID_LENGTH
        and text.isascii()
        and text.isprintable()
    )
