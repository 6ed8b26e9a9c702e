"""Errors as HTTP answers: problem details (RFC 9457) with the name of the gRPC status."""

from __future__ import annotations

import json
import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from cpcsam.text import printable

if TYPE_CHECKING:
    from typing import Self

__all__ = ["CHALLENGE", "CLIENT_GONE", "MEDIA_TYPE", "STATUSES", "Problem", "quoted"]

MEDIA_TYPE: Final = "application/problem+json"
CHALLENGE: Final = 'Bearer realm="cpcsam", Basic realm="cpcsam", charset="UTF-8"'
CLIENT_GONE: Final = 499
STATUSES: Final = {
    "CANCELLED": CLIENT_GONE,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 409,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}
"""HTTP status by the name of the gRPC status."""
MAX_QUOTED: Final = 80
"""Characters of a quotation."""


class Problem(Exception):  # noqa: N818  # named as in RFC 9457
    """A refusal or a failure that is answered by `application/problem+json`.

    Attributes:
        status: of HTTP.
        code: name of the gRPC status that it corresponds to.
        detail: *what: got, expected; fix*.
        field: of the request that is at fault, as in `prompts[0].box`.
        retry_after_s: seconds after which a retry may help.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        field: str | None = None,
        retry_after_s: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.field = field
        self.retry_after_s = retry_after_s
        self.headers = dict(headers or {})

    @classmethod
    def of(
        cls,
        status: int,
        code: str,
        detail: str,
        field: str | None = None,
        retry_after_s: float | None = None,
    ) -> Self:
        """Build a problem; arguments as the attributes."""
        return cls(status, code, detail, field, retry_after_s)

    def response(self, request_id: str) -> Response:
        """Build the answer.

        Args:
            request_id: of the request, which the answer repeats.
        """
        record: dict[str, Any] = {
            "type": "about:blank",
            "title": _title(self.status),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
        }
        headers = dict(self.headers)
        if self.field is not None:
            record["field"] = self.field
        if self.retry_after_s is not None:
            record["retry_after_s"] = self.retry_after_s
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["www-authenticate"] = CHALLENGE
        text = json.dumps(record, ensure_ascii=False)
        return Response(
            text.encode(errors="replace"), self.status, headers=headers, media_type=MEDIA_TYPE
        )


def quoted(value: object) -> str:
    """Quote a value that a caller sent, as far as it tells the caller what is meant.

    A body may be one text of many megabytes, which escaped is several times as long.
    """
    short = value[:MAX_QUOTED] if isinstance(value, str) else value
    return printable(repr(short), MAX_QUOTED)


def _title(status: int) -> str:
    if status == CLIENT_GONE:
        return "Client Closed Request"
    return HTTPStatus(status).phrase
