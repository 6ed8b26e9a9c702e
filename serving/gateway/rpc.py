"""Execution of RPCs: request context, deadline, status of errors, log line and metrics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from time import monotonic
from typing import Any, Final, TypeVar

import grpc

from cpcsam import tracing
from cpcsam.errors import ContractError, CpcSamError, ServingError
from cpcsam.grpc_errors import DeadlineError, FullError, LimitError, status_of_error
from serving.common.request_ids import ID_KEY, adopt_request_id, current_request_id
from serving.gateway.auth.authenticator import Authenticator, Principal
from serving.gateway.auth.interceptor import authenticated_principal
from serving.gateway.context import ModelInfo, RequestContext
from serving.gateway.error_details import abort_with, without_frames
from serving.gateway.limits import MAX_REQUEST_ID_LENGTH
from serving.gateway.metrics import Metrics, Stopwatch
from serving.gateway.phases import RequestPhases
from serving.gateway.scheduling.admission import Permit

__all__ = ["RpcRunner"]

PHASED: Final = ("Segment", "SegmentStream")
"""Methods whose time is observed by phase."""
ROUNDING: Final = 0.01
"""Largest share by which gRPC rounds up what it tells a server of a caller's time limit."""
JITTER_S: Final = 0.02
"""Most by which timers let a caller give up before its time is over, seconds."""
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
        self,
        method: str,
        request_id: str,
        handler: Handler[Response],
        grpc_context: Any,
        subject: str = "",
    ) -> Response:
        """Run the handler of a unary call; a failure ends the call with its gRPC status.

        Args:
            method: name of the call, for metrics and logs.
            request_id: in the request, chosen by the caller.
            handler: computes the response.
            grpc_context: servicer context of the call.
            subject: what the call is about, for logs.
        """
        adopted = adopt_request_id(_metadata(grpc_context), request_id)
        grpc_context.set_trailing_metadata(((ID_KEY, adopted),))
        outcome = await self._attempt(
            method, subject or request_id, handler, grpc_context, authenticated_principal
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

        with tracing.span("stream request"):
            adopt_request_id(_metadata(grpc_context), request_id)
            return await self._attempt(method, request_id, handler, grpc_context, authenticate)

    async def _attempt(
        self,
        method: str,
        subject: str,
        handler: Handler[Response],
        grpc_context: Any,
        authenticate: Callable[[], Principal],
    ) -> Response | CpcSamError:
        watch, span = Stopwatch(), tracing.current_span()
        request_id = current_request_id()
        label = _label(request_id, subject)
        remaining_s = grpc_context.time_remaining()
        timeout_s = self.max_seconds if remaining_s is None else min(self.max_seconds, remaining_s)
        code = grpc.StatusCode.CANCELLED  # stays if the caller gives up
        failure: CpcSamError | None = None
        phases = RequestPhases()
        try:
            principal = authenticate()
            # Without tokens every caller is the same principal: share capacity by address instead.
            share = principal.tenant if self._authenticator.requires_tokens else grpc_context.peer()
            deadline = monotonic() + timeout_s
            span.set({"cpcsam.request_id": request_id, "cpcsam.tenant": principal.tenant})
            with ExitStack() as held:
                fetch = partial(self._fetch_and_hold, held)
                context = RequestContext(
                    request_id, principal, Permit(share), deadline, fetch, phases
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
            LOG.exception("%s %s failed", method, label, extra={"method": method})
            failure = ServingError("internal error; see the gateway's log")
        finally:
            if failure is not None:
                code = status_of_error(failure)
            # gRPC cancels the handler at the caller's deadline, too.
            if code is grpc.StatusCode.CANCELLED and watch.seconds >= _least_until_over(timeout_s):
                code = grpc.StatusCode.DEADLINE_EXCEEDED
            watch.stop()
            seconds, name = watch.seconds, code.name
            self._metrics.request_seconds.labels(method, name).observe(seconds)
            if method in PHASED:
                for phase, spent_s in phases.by_phase(seconds).items():
                    self._metrics.phase_seconds.labels(phase).observe(spent_s)
            span.answered(name, is_fault=name in tracing.SERVER_FAULTS)
            fields = {"method": method, "code": name, "seconds": round(seconds, 6)}
            LOG.info("%s %s: %s, %.1f ms", method, label, name, seconds * 1e3, extra=fields)
        return failure

    async def _fetch_and_hold(self, held: ExitStack, timeout_s: float) -> ModelInfo:
        """Fetch the model's metadata, and count the request as one that keeps to this model."""
        model = await self._fetch_model(timeout_s)
        held.enter_context(self._metrics.request_of(model.identity))
        return model

    def _count_rejection(self, error: CpcSamError) -> None:
        if isinstance(error, ContractError | LimitError):
            reason = "invalid" if isinstance(error, ContractError) else "over_limit"
            self._metrics.rejected.labels(
                "in_flight" if isinstance(error, FullError) else reason
            ).inc()


def _metadata(grpc_context: Any) -> tracing.Headers:
    metadata: tracing.Headers = grpc_context.invocation_metadata() or ()
    return metadata


def _label(request_id: str, subject: str) -> str:
    """Return the id of a request and its subject, not yet checked, if that is another."""
    subject = subject[:MAX_REQUEST_ID_LENGTH]
    return repr(request_id) if subject in ("", request_id) else f"{request_id!r} ({subject!r})"


def _least_until_over(timeout_s: float) -> float:
    """Return the seconds after which a caller whose own time is over may cancel."""
    return (1 - ROUNDING) * timeout_s - JITTER_S


def _deadline_exceeded(timeout_s: float) -> CpcSamError:
    return DeadlineError.of(
        "deadline",
        got=f"no answer within {timeout_s:.3g} s",
        expected="an answer in time",
        fix="allow more time",
    )
