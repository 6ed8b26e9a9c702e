"""What every call of the API has: a deadline, an error's status, a log line and its metrics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, TypeVar

import grpc

from cpcsam.errors import ContractError, CpcSamError, ServingError
from cpcsam.grpc_errors import DeadlineError, FullError, LimitError, status_of_error
from serving.gateway.auth.interceptor import Access
from serving.gateway.context import Call
from serving.gateway.error_details import trailing_metadata
from serving.gateway.metrics import Metrics, Stopwatch
from serving.gateway.scheduling.admission import Ticket

__all__ = ["RpcRunner"]

LOG = logging.getLogger(__name__)
Response = TypeVar("Response")


class RpcRunner:
    """Answers calls; one instance a gateway.

    Args:
        access: knows the callers.
        metrics: count what happens.
        max_seconds: longest time for a call; a caller's own deadline may be shorter.
    """

    def __init__(self, access: Access, metrics: Metrics, max_seconds: float) -> None:
        self._access = access
        self._metrics = metrics
        self.max_seconds = max_seconds

    async def answer(
        self,
        method: str,
        request_id: str,
        work: Callable[[Call], Awaitable[Response]],
        context: Any,
    ) -> Response:
        """Answer a call, or end it with the status of what went wrong; see `attempt`."""
        outcome = await self.attempt(method, request_id, work, context)
        if isinstance(outcome, CpcSamError):
            details = trailing_metadata(outcome)
            await context.abort(status_of_error(outcome), str(outcome), details)
            raise AssertionError("abort raises")
        return outcome

    async def attempt(
        self,
        method: str,
        request_id: str,
        work: Callable[[Call], Awaitable[Response]],
        context: Any,
    ) -> Response | CpcSamError:
        """Do the work within the caller's deadline; count and log.

        Args:
            method: name of the call.
            request_id: as the caller chose it.
            work: what to do.
            context: of the call, as gRPC gives it.

        Returns:
            The answer, or why there is none.
        """
        watch = Stopwatch()
        remaining_s = context.time_remaining()
        timeout_s = self.max_seconds if remaining_s is None else min(self.max_seconds, remaining_s)
        code = grpc.StatusCode.CANCELLED  # stays where the caller gives up
        failure: CpcSamError | None = None
        try:
            caller = self._access.caller_of(context.invocation_metadata())
            share = caller.tenant if self._access.asks_for_tokens else context.peer()
            call = Call(request_id, caller, Ticket(share), monotonic() + timeout_s)
            async with asyncio.timeout(timeout_s):
                response = await work(call)
            code = grpc.StatusCode.OK
            return response
        except TimeoutError:
            failure = _out_of_time(timeout_s)
        except CpcSamError as error:
            failure = error
            self._count_refusal(error)
        except Exception:
            LOG.exception("%s %r failed", method, request_id)
            failure = ServingError("internal error; see the gateway's log")
        finally:
            if failure is not None:
                code = status_of_error(failure)
            if code is grpc.StatusCode.CANCELLED and watch.seconds >= timeout_s:
                code = grpc.StatusCode.DEADLINE_EXCEEDED
            self._metrics.request_seconds.labels(method, code.name).observe(watch.seconds)
            LOG.info("%s %r: %s, %.1f ms", method, request_id, code.name, watch.seconds * 1e3)
        return failure

    def _count_refusal(self, error: CpcSamError) -> None:
        if isinstance(error, ContractError | LimitError):
            reason = "invalid" if isinstance(error, ContractError) else "over_limit"
            self._metrics.rejected.labels(
                "in_flight" if isinstance(error, FullError) else reason
            ).inc()


def _out_of_time(timeout_s: float) -> CpcSamError:
    return DeadlineError.of(
        "deadline",
        got=f"no answer within {timeout_s:.3g} s",
        expected="one sooner",
        fix="allow more time",
    )
