"""Caller of a request: token, time limit and request id, from its headers."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import Request

from serving.http.config import HttpConfig
from serving.http.problems import Problem

__all__ = ["TIMEOUT_HEADER", "Caller", "caller_of"]

TIMEOUT_HEADER: Final = "x-request-timeout"


@dataclass(frozen=True)
class Caller:
    """Who calls the gateway, and for how long.

    Attributes:
        token: bearer token of the gateway; None sends none.
        timeout_s: seconds after which the answer is useless.
        request_id: in the answer's headers and in logs.
    """

    token: str | None = field(repr=False)
    timeout_s: float
    request_id: str


def caller_of(request: Request) -> Caller:
    """Read the caller of a request.

    `Authorization: Bearer TOKEN` is passed on; of `Authorization: Basic`, the password is the token
    and the user is ignored. `X-Request-Timeout` is in seconds, bounded by the configuration.

    Raises:
        Problem: 400 for a time limit that is none, 401 for credentials that cannot be read.
    """
    config: HttpConfig = request.app.state.config
    request_id: str = request.state.request_id
    header = request.headers.get("authorization")
    token = None if header is None else _token(header)
    return Caller(token, _timeout_s(request, config.max_seconds), request_id)


def _timeout_s(request: Request, most: float) -> float:
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return most
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise Problem.of(
            400,
            "INVALID_ARGUMENT",
            "X-Request-Timeout: got something else, expected seconds above 0; correct or omit it",
            "X-Request-Timeout",
        )
    return min(seconds, most)


def _token(header: str) -> str:
    scheme, _, rest = header.partition(" ")
    rest = rest.strip()
    if scheme.lower() == "basic":
        try:
            text = base64.b64decode(rest, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise _unreadable("Basic with something else") from None
        rest = text.partition(":")[2]
    elif scheme.lower() != "bearer":
        raise _unreadable("another scheme")
    if not rest or not (rest.isascii() and rest.isprintable()):
        raise _unreadable("no token")
    return rest


def _unreadable(got: str) -> Problem:
    return Problem.of(
        401,
        "UNAUTHENTICATED",
        f"Authorization: got {got}, expected Bearer TOKEN, or Basic with the token as password; "
        "correct it",
    )
