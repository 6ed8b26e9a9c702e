"""gRPC interceptor that authenticates every call before its message is read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final

import grpc

from cpcsam.grpc_errors import AuthenticationError
from serving.common.request_ids import ID_KEY, adopt_request_id
from serving.gateway.auth.authenticator import Authenticator, Principal
from serving.gateway.metrics import Metrics

__all__ = ["AuthenticationInterceptor", "authenticated_principal"]

OPEN_TO_ALL: Final = ("/grpc.health.v1.Health/",)
"""Probes of orchestrators carry no token, and learn nothing but that the gateway serves."""
PRINCIPAL: Final[ContextVar[Principal]] = ContextVar("principal")


def authenticated_principal() -> Principal:
    """Return the principal that the interceptor authenticated for the call being handled.

    gRPC runs interceptor and handler of a call in the same task, so that a context variable set by
    the interceptor is visible in the handler and in the tasks that it starts.

    Raises:
        LookupError: outside a call, or in a call that needs no token.
    """
    return PRINCIPAL.get()


class AuthenticationInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls without a valid token before their message is read, and counts them."""

    def __init__(self, authenticator: Authenticator, metrics: Metrics) -> None:
        self._authenticator = authenticator
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Pass the call on, with its principal, or refuse it with UNAUTHENTICATED."""
        details = handler_call_details
        if not details.method.startswith(OPEN_TO_ALL):
            try:
                PRINCIPAL.set(self._authenticator.authenticate(details.invocation_metadata))
            except AuthenticationError as error:
                self._metrics.rejected.labels("unauthenticated").inc()
                request_id = adopt_request_id(details.invocation_metadata or ())
                return _refusing_handler(str(error), request_id)
        return await continuation(details)


def _refusing_handler(message: str, request_id: str) -> Any:
    async def refuse(_: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, message, ((ID_KEY, request_id),))

    # Of the four kinds of handlers, only this one starts before the message is received.
    return grpc.stream_stream_rpc_method_handler(refuse)
