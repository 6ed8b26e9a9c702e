"""Refusal of requests that foreign pages make in a user's browser."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.common.exposure import is_loopback
from serving.http.metrics import HttpMetrics
from serving.http.problems import Problem

__all__ = ["OriginGuard"]


class OriginGuard:
    """Middleware against cross-site requests and DNS rebinding.

    A server without tokens on loopback is open to every page that its user visits: the page may
    post a form to it, or give a name of its own to 127.0.0.1.

    Args:
        app: what is guarded.
        host: address that the server listens on.
        origins: besides its own, from which requests may come.
        hosts: names besides addresses of loopback by which a server on loopback is called; where
            there are some, a server on other addresses as well.
        metrics: counts refusals.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        origins: Sequence[str],
        hosts: Sequence[str],
        metrics: HttpMetrics,
    ) -> None:
        self._app = app
        self._is_loopback = is_loopback(host)
        self._origins = frozenset(origins)
        self._hosts = frozenset(hosts)
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request.

        Raises:
            Problem: 403, another origin or host.
        """
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            called = headers.get("host", "")
            if not self._is_own_host(called):
                raise self._refusal("Host", "--allowed-host NAME")
            origin = headers.get("origin")
            if origin is not None and not self._is_admitted(origin, called):
                raise self._refusal("Origin", "--cors-origin ORIGIN")
        await self._app(scope, receive, send)

    def _is_own_host(self, called: str) -> bool:
        if not self._is_loopback and not self._hosts:
            return True
        try:
            name = urlsplit(f"//{called}").hostname or ""
        except ValueError:
            return False
        return is_loopback(name) or name in self._hosts

    def _is_admitted(self, origin: str, called: str) -> bool:
        if origin in self._origins or "*" in self._origins:
            return True
        scheme, _, rest = origin.partition("://")
        return scheme in ("http", "https") and rest == called

    def _refusal(self, header: str, option: str) -> Problem:
        self._metrics.rejected.labels("origin").inc()
        return Problem.of(
            403,
            "PERMISSION_DENIED",
            f"{header}: got another one, expected the server's own; start it with {option} "
            "if that one is to be admitted",
            header,
        )
