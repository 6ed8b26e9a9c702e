"""Health of the front's process and of the gateway behind it."""

from __future__ import annotations

from typing import Final

import grpc
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serving.http.gateway import Gateway
from serving.http.problems import Problem

__all__ = ["live", "ready"]

TIMEOUT_S: Final = 2.0
RETRY_S: Final = 1.0


async def live(request: Request) -> Response:
    """Answer 200: the process runs."""
    return JSONResponse({"status": "live"})


async def ready(request: Request) -> Response:
    """Answer 200 while the gateway's health service reports SERVING.

    Raises:
        Problem: 503, it does not, or the gateway cannot be reached.
    """
    gateway: Gateway = request.app.state.gateway
    try:
        healthy, got = await gateway.is_healthy(TIMEOUT_S), "one without a Triton that answers"
    except grpc.aio.AioRpcError:
        healthy, got = False, "no connection"
    if not healthy:
        raise Problem.of(
            503,
            "UNAVAILABLE",
            f"gateway: got {got}, expected a serving one; try again, or see its log",
            retry_after_s=RETRY_S,
        )
    return JSONResponse({"status": "ready"})
