"""Execution of RPCs: request context, deadline, status of errors, log line and metrics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, TypeVar

import grpc

from cpcsam.errors import ContractError, CpcSamError, ServingError
from cpcsam.grpc_errors import DeadlineError, FullError, LimitError, status_of_error
from serving.gateway.auth.authenticator import Authenticator, Principal
from serving.gateway.auth.interceptor import authenticated_principal
from serving.gateway.context import ModelInfo, RequestContext
from serving.gateway.error_details import abort_with, without_frames
from serving.gateway.limits import MAX_REQUEST_ID_LENGTH
from serving.gateway.metrics import Metrics, Stopwatch
from serving.gateway.scheduling.admission import Permit

__all__ = ["RpcRunner"]

LOG = logging.getLogger(__name__)
Response = TypeVar("Response")
Handler = Callable[[RequestContext], Awaitable[Response]]


class RpcRunner:
    """Runs the handlers of RPCs; one instance per gateway.

    Args:
        authenticator: authenticates the requests of a stream.
        metrics: counts outcomes and times.
        max_seconds: longest time for a request; a caller's own deadline may be shorter.
        fetch_model: fetches the served model's metadata within a timeout in seconds.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        metrics: Metrics,
        max_seconds: float,
        fetch_model: Callable[[float], Awaitable[ModelInfo]],
    ) -> None:
        self._authenticator = authenticator
        self._metrics = metrics
        self._fetch_model = fetch_model
        self.max_seconds = max_seconds

    async def run(
        self, method: str, request_id: str, handler: Handler[Response], grpc_context: Any
    ) -> Response:
        """Run the handler of a unary call; a failure ends the call with its gRPC status.

        Args:
            method: name of the call, for metrics and logs.
            request_id: chosen by the caller; for logs.
            handler: computes the response.
            grpc_context: servicer context of the call.
        """
        outcome = await self._attempt(
            method, request_id, handler, grpc_context, authenticated_principal
        )
        if isinstance(outcome, CpcSamError):
            await abort_with(grpc_context, outcome)
            raise AssertionError("abort raises")
        return outcome

    async def run_in_stream(
        self, method: str, request_id: str, handler: Handler[Response], grpc_context: Any
    ) -> Response | CpcSamError:
        """Run the handler of one request of a stream and return its response or its failure.

        The token is looked up for each request, since it may be revoked while the stream is open.
        Arguments as for `run`.
        """

        def authenticate() -> Principal:
            return self._authenticator.authenticate(grpc_context.invocation_metadata())

        return await self._attempt(method, request_id, handler, grpc_context, authenticate)

    async def _attempt(
        self,
        method: str,
        request_id: str,
        handler: Handler[Response],
        grpc_context: Any,
        authenticate: Callable[[], Principal],
    ) -> Response | CpcSamError:
        watch = Stopwatch()
        request_id = request_id[:MAX_REQUEST_ID_LENGTH]  # not yet checked
        remaining_s = grpc_context.time_remaining()
        timeout_s = self.max_seconds if remaining_s is None else min(self.max_seconds, remaining_s)
        code = grpc.StatusCode.CANCELLED  # stays if the caller gives up
        failure: CpcSamError | None = None
        try:
            principal = authenticate()
            # Without tokens every caller is the same principal: share capacity by address instead.
            share = principal.tenant if self._authenticator.requires_tokens else grpc_context.peer()
            context = RequestContext(
                request_id, principal, Permit(share), monotonic() + timeout_s, self._fetch_model
            )
            async with asyncio.timeout(timeout_s):
                response = await handler(context)
            code = grpc.StatusCode.OK
            return response
        except TimeoutError:
            failure = _deadline_exceeded(timeout_s)
        except CpcSamError as error:
            failure = without_frames(error)
            self._count_rejection(error)
        except Exception:
            # Details of an internal error are for the operator, not for the caller.
            LOG.exception("%s %r failed", method, request_id)
            failure = ServingError("internal error; see the gateway's log")
        finally:
            if failure is not None:
                code = status_of_error(failure)
            # gRPC cancels the handler at the caller's deadline, too.
            if code is grpc.StatusCode.CANCELLED and watch.seconds >= timeout_s:
                code = grpc.StatusCode.DEADLINE_EXCEEDED
            self._metrics.request_seconds.labels(method, code.name).observe(watch.seconds)
            LOG.info("%s %r: %s, %.1f ms", method, request_id, code.name, watch.seconds * 1e3)
        return failure

    def _count_rejection(self, error: CpcSamError) -> None:
        if isinstance(error, ContractError | LimitError):
            reason = "invalid" if isinstance(error, ContractError) else "over_limit"
            self._metrics.rejected.labels(
                "in_flight" if isinstance(error, FullError) else reason
            ).inc()


def _deadline_exceeded(timeout_s: float) -> CpcSamError:
    return DeadlineError.of(
        "deadline",
        got=f"no answer within {timeout_s:.3g} s",
        expected="an answer in time",
        fix="allow more time",
    )
