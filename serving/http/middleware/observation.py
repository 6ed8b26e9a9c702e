"""Request ids, metrics, log lines and the bound on requests in flight."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any, Final
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cpcsam import tracing
from serving.common.request_ids import ID_KEY, adopt_request_id
from serving.http.bodies import Room
from serving.http.metrics import HttpMetrics
from serving.http.problems import CLIENT_GONE, Problem

__all__ = ["Admission", "Observation", "methods_of", "templates_of"]

LOG = logging.getLogger(__name__)
HEALTH: Final = "/health/"
OTHER: Final = "other"
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
RETRY_S: Final = 1.0


def templates_of(routes: Sequence[BaseRoute], prefix: str = "") -> dict[Any, str]:
    """Return the path template of each endpoint, for metrics and logs.

    Args:
        routes: of the application.
        prefix: of their paths.
    """
    found: dict[Any, str] = {}
    for route in routes:
        if isinstance(route, Route):
            found[route.endpoint] = prefix + route.path_format
        elif isinstance(route, Mount):
            found[route.app] = prefix + route.path
            found |= templates_of(route.routes or (), prefix + route.path)
    return found


def methods_of(routes: Sequence[BaseRoute], templates: Mapping[Any, str]) -> list[tuple[str, str]]:
    """Return the template of each route with each of its methods but HEAD."""
    return [
        (templates[route.endpoint], method)
        for route in routes
        if isinstance(route, Route)
        for method in sorted((route.methods or set()) - {"HEAD"})
    ]


class Observation:
    """Middleware that gives a request its id, counts it, and answers what nothing else has.

    `scope["state"]` gets `request_id`, from `X-Request-Id` where that is fit for logs (a body's own
    may replace it), `in_flight`, the requests in flight, and `held_bytes`, the bytes that `Room`
    gets back in the end.

    Args:
        app: what is observed.
        metrics: of the front.
        room: of the bodies.
        templates: path template by endpoint.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: HttpMetrics,
        room: Room,
        templates: Mapping[Any, str],
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._room = room
        self._templates = templates
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope).items()
        # Never that of the task: uvicorn may read a connection's next request in the task of the
        # one before.
        request_id = adopt_request_id(headers, uuid4().hex)
        state = scope.setdefault("state", {})
        state |= {"request_id": request_id, "held_bytes": 0, "gone": False}
        with _span_of(scope, headers) as span:
            try:
                await self._run(scope, receive, send)
            finally:
                span.set({"cpcsam.request_id": state["request_id"]})

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["state"]
        started, status = perf_counter(), 0

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[ID_KEY] = state["request_id"]
            await send(message)

        self._count(1)
        state["in_flight"] = self._in_flight
        try:
            await self._app(scope, receive, observed_send)
        except Problem as problem:
            await problem.response(state["request_id"])(scope, receive, observed_send)
        except Exception:
            # Details of an internal error are for the operator, not for the caller.
            LOG.exception("%r failed", state["request_id"])
            if not status:
                await _internal().response(state["request_id"])(scope, receive, observed_send)
        except asyncio.CancelledError:  # the server stops
            if status:
                raise
            await _stopping().response(state["request_id"])(scope, receive, observed_send)
        finally:
            self._room.release(state["held_bytes"])
            self._observe(scope, CLIENT_GONE if state["gone"] else status, started)
            self._count(-1)  # last: who sees no request in flight sees the counts of all

    def _count(self, change: int) -> None:
        self._in_flight += change
        self._metrics.in_flight.set(self._in_flight)

    def _observe(self, scope: Scope, status: int, started: float) -> None:
        seconds = perf_counter() - started
        route = self._templates.get(scope.get("endpoint"), OTHER)
        method = scope["method"] if scope["method"] in METHODS else OTHER
        self._metrics.request_seconds.labels(route, method, str(status)).observe(seconds)
        span = tracing.current_span()
        span.set({"http.route": route, "http.response.status_code": status}, f"{method} {route}")
        if status >= 500:
            span.failed(str(status))
        fields = {"method": method, "route": route, "code": status, "seconds": round(seconds, 6)}
        request_id = scope["state"]["request_id"]
        ms = seconds * 1e3
        LOG.info("%s %s %r: %d, %.1f ms", method, route, request_id, status, ms, extra=fields)


class Admission:
    """Middleware that refuses requests beyond a number in flight, but for those of health.

    It stands behind the one of CORS, without whose headers a page of another origin could not read
    when to try again.

    Args:
        app: which takes the others.
        metrics: counts refusals.
        most: requests in flight.
    """

    def __init__(self, app: ASGIApp, metrics: HttpMetrics, most: int) -> None:
        self._app = app
        self._metrics = metrics
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request, or answer 429."""
        app = self._app
        if scope["type"] == "http" and not scope["path"].startswith(HEALTH):
            in_flight = scope["state"]["in_flight"]
            if in_flight > self._most:
                self._metrics.rejected.labels("full").inc()
                app = _full(in_flight, self._most).response(scope["state"]["request_id"])
        await app(scope, receive, send)


def _full(in_flight: int, most: int) -> Problem:
    return Problem.of(
        429,
        "RESOURCE_EXHAUSTED",
        f"server: got {in_flight} requests at once, expected at most {most}; try again in a moment",
        retry_after_s=RETRY_S,
    )


def _span_of(scope: Scope, headers: tracing.Headers) -> tracing.Span:
    if scope["path"].startswith(HEALTH):
        return tracing.Span()
    method = scope["method"] if scope["method"] in METHODS else OTHER
    return tracing.served_span(method, headers, is_call=False)


def _stopping() -> Problem:
    return Problem.of(
        503,
        "UNAVAILABLE",
        "server: got stopped, expected a running one; try again",
        retry_after_s=RETRY_S,
    )


def _internal() -> Problem:
    return Problem.of(
        500,
        "INTERNAL",
        "server: got an internal error, expected an answer; see the log of the HTTP front",
    )
