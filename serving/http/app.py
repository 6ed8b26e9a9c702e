"""ASGI application of the HTTP front: routes, middleware and the answers to errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

import grpc
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from serving.common.request_ids import ID_KEY
from serving.http import api, label_studio, openapi, page, x_anylabeling
from serving.http.bodies import Room
from serving.http.caller import TIMEOUT_HEADER
from serving.http.config import HttpConfig
from serving.http.gateway import Gateway
from serving.http.metrics import HttpMetrics
from serving.http.middleware.disconnects import CancelOnDisconnect
from serving.http.middleware.headers import SecurityHeaders
from serving.http.middleware.observation import Admission, Observation, methods_of, templates_of
from serving.http.middleware.origins import OriginGuard
from serving.http.problems import Problem
from serving.http.rpc_problems import problem_of

__all__ = ["create_app"]

PREFLIGHT_S: Final = 600
TRACE_HEADERS: Final = ("traceparent", "tracestate")
CODES: Final = {404: "NOT_FOUND", 405: "UNIMPLEMENTED"}


def create_app(config: HttpConfig, gateway: Gateway | None = None) -> Starlette:
    """Build the application, with `config`, `metrics`, `room` and `gateway` in its state.

    Args:
        config: of the front.
        gateway: to call; None opens the configured one while the application runs.
    """
    routes: Sequence[BaseRoute] = [
        *api.routes(config),
        *openapi.routes(config),
        *label_studio.routes(config),
        *x_anylabeling.routes(config),
        *page.routes(config),
    ]
    templates = templates_of(routes)
    metrics = HttpMetrics(methods_of(routes, templates))
    room = Room(config.max_held_bytes, metrics)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        own = Gateway(config.endpoint, metrics) if gateway is None else gateway
        app.state.gateway = own
        try:
            yield
        finally:
            if gateway is None:
                await own.close()

    app = Starlette(
        routes=routes,
        middleware=_middleware(config, metrics, room, templates),
        exception_handlers={
            Problem: _answer_problem,
            grpc.aio.AioRpcError: _answer_failure,
            HTTPException: _answer_http_error,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a redirect may lead a token off TLS, behind a proxy
    app.state.config = config
    app.state.metrics = metrics
    app.state.room = room
    app.state.gateway = gateway
    return app


def _middleware(
    config: HttpConfig, metrics: HttpMetrics, room: Room, templates: Mapping[Any, str]
) -> list[Middleware]:
    found = [
        Middleware(SecurityHeaders),
        Middleware(Observation, metrics, room, templates),
        Middleware(OriginGuard, config.host, config.cors_origins, config.allowed_hosts, metrics),
    ]
    if config.cors_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("authorization", "content-type", ID_KEY, TIMEOUT_HEADER, *TRACE_HEADERS),
            expose_headers=(ID_KEY, "retry-after"),
            max_age=PREFLIGHT_S,
        )
        found.append(cors)
    found.append(Middleware(Admission, metrics, config.max_in_flight))
    return [*found, Middleware(CancelOnDisconnect)]


def _answer_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response(request.state.request_id)


def _answer_failure(request: Request, error: Exception) -> Response:
    assert isinstance(error, grpc.aio.AioRpcError)
    return problem_of(error).response(request.state.request_id)


def _answer_http_error(request: Request, error: Exception) -> Response:
    """Answer what Starlette itself refuses, such as an unknown path."""
    assert isinstance(error, HTTPException)
    status = error.status_code
    phrase = HTTPStatus(status).phrase.lower()
    problem = Problem(
        status,
        CODES.get(status, "INVALID_ARGUMENT" if status < 500 else "INTERNAL"),
        f"{request.method}: got {phrase}, expected a route of the API; see /openapi.json",
        headers=dict(error.headers or {}),
    )
    return problem.response(request.state.request_id)
