"""Images of the configured Label Studio server, by GETs bounded in bytes, time and redirects."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Mapping
from http import HTTPStatus
from time import monotonic
from typing import Final
from urllib.parse import urlsplit

from cpcsam.errors import ServingError
from cpcsam.grpc_errors import ForbiddenError, LimitError, NotFoundError, UnavailableError
from serving.http.label_studio.addresses import target_of
from serving.http.label_studio_config import LabelStudioConfig

__all__ = ["LabelStudioHost"]

MAX_REDIRECTS: Final = 3
CHUNK: Final = 1 << 16
MAX_TOKEN_BYTES: Final = 1 << 16
REDIRECTS: Final = (301, 302, 303, 307, 308)


class LabelStudioHost:
    """Reads images from Label Studio with its token; safe to use from several threads.

    A personal access token is a refresh token, which an access token of a few minutes is asked for;
    a legacy token is sent as it is.

    Args:
        config: of the server.
    """

    def __init__(self, config: LabelStudioConfig) -> None:
        self._config = config
        self._url = urlsplit(config.url)
        self._is_personal = config.token.count(".") == 2
        self._access: str | None = None
        self._lock = threading.Lock()
        self._tls = ssl.create_default_context() if self._url.scheme == "https" else None

    def read_image(self, reference: str, task_id: int | None) -> bytes:
        """Read an image.

        Args:
            reference: as the task's data has it.
            task_id: of the task.

        Raises:
            ContractError: the reference, or a redirect, leads elsewhere.
            LimitError: the image is too large.
            NotFoundError: Label Studio does not have it.
            ForbiddenError: Label Studio refuses the token.
            UnavailableError: Label Studio cannot be reached or does not answer in time.
        """
        deadline = monotonic() + self._config.read_s
        target = target_of(self._config.url, reference, task_id)
        for _ in range(MAX_REDIRECTS + 1):
            status, headers, data = self._get(target, deadline)
            location = headers.get("location")
            if status not in REDIRECTS or location is None:
                break
            target = target_of(self._config.url, location, None, seen_at=target)
        if status == HTTPStatus.OK:
            return data
        raise _failure(status)

    def _get(self, target: str, deadline: float) -> tuple[int, Mapping[str, str], bytes]:
        """Send a GET with a token, and once again with a new one if the first has expired."""
        most = self._config.max_image_bytes
        used = self._access_token(None, deadline)
        headers = {"authorization": used}
        answer = self._send("GET", target, headers, None, most, deadline)
        if answer[0] == HTTPStatus.UNAUTHORIZED and self._is_personal:
            headers = {"authorization": self._access_token(used, deadline)}
            answer = self._send("GET", target, headers, None, most, deadline)
        return answer

    def _access_token(self, expired: str | None, deadline: float) -> str:
        """Return the value of the Authorization header, another than the expired one."""
        if not self._is_personal:
            return f"Token {self._config.token}"
        with self._lock:
            if self._access is None or self._access == expired:
                self._access = f"Bearer {self._refreshed(deadline)}"
            return self._access

    def _refreshed(self, deadline: float) -> str:
        target = self._url.path.rstrip("/") + "/api/token/refresh/"
        body = json.dumps({"refresh": self._config.token}).encode()
        headers = {"content-type": "application/json"}
        status, _, data = self._send("POST", target, headers, body, MAX_TOKEN_BYTES, deadline)
        if status != HTTPStatus.OK:
            raise _failure(status)
        try:
            access = json.loads(data)["access"]
        except (ValueError, KeyError, TypeError):
            access = None
        if not isinstance(access, str) or not (access.isascii() and access.isprintable()):
            raise _failure(HTTPStatus.BAD_GATEWAY)
        return access

    def _send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        most: int,
        deadline: float,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send one request; return the status, the headers in lower case and the bounded body."""
        connection = self._connection()
        try:
            connection.connect()
            connection.sock.settimeout(max(0.1, deadline - monotonic()))
            connection.request(method, target, body, dict(headers))
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, _read(answer, connection, most, deadline)
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError.of(
                "Label Studio",
                got=f"{type(error).__name__} at {self._config.url}",
                expected="an answer in time",
                fix="check --label-studio-url, and that Label Studio runs",
            ) from None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._tls is None:
            return http.client.HTTPConnection(host, port, timeout=self._config.connect_s)
        return http.client.HTTPSConnection(
            host, port, timeout=self._config.connect_s, context=self._tls
        )


def _read(
    answer: http.client.HTTPResponse,
    connection: http.client.HTTPConnection,
    most: int,
    deadline: float,
) -> bytes:
    parts, size = [], 0
    while part := answer.read1(CHUNK):
        size += len(part)
        if size > most:
            raise LimitError.of(
                "image",
                got=f"more than {most} bytes from Label Studio",
                expected=f"at most {most}",
                fix="use a smaller image, or allow more by --label-studio-max-image-bytes",
            )
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        if connection.sock is not None:
            connection.sock.settimeout(left)
        parts.append(part)
    # `read1` takes the end of the connection for that of the body.
    if answer.length:
        raise http.client.IncompleteRead(b"", answer.length)
    return b"".join(parts)


def _failure(status: int) -> ServingError:
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return ForbiddenError.of(
            "Label Studio",
            got=f"status {status} for its token",
            expected="an image",
            fix="give a token of a user who may see the project: --label-studio-token-file",
        )
    if status == HTTPStatus.NOT_FOUND:
        return NotFoundError.of(
            "image",
            got="status 404 from Label Studio",
            expected="a file that it has",
            fix="import the task again, or allow local files: LOCAL_FILES_SERVING_ENABLED=true",
        )
    return UnavailableError.of(
        "Label Studio", got=f"status {status}", expected="an image", fix="see its log"
    )
