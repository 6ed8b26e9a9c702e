"""gRPC interceptor that bounds what a call may hold, and for how long.

It makes every method a stream on the server's side, which looks the same on the wire. Only so does
a call start before its message is received, know its peer then, and end with the right status if
the message is malformed or does not come.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc

from cpcsam import tracing
from cpcsam.errors import ContractError, CpcSamError
from cpcsam.grpc_errors import DeadlineError, LimitError, status_of_error
from serving.common.request_ids import ID_KEY, adopt_request_id
from serving.gateway.auth.interceptor import OPEN_TO_ALL, authenticated_principal
from serving.gateway.calls.connections import close_when_unread
from serving.gateway.calls.open_calls import OpenCalls
from serving.gateway.calls.received import MessageParser, ReadingTurns
from serving.gateway.error_details import abort_with
from serving.gateway.metrics import Metrics

__all__ = ["CallGuard", "Patience"]

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """Seconds that a client may keep a call waiting.

    Attributes:
        receive_s: from the headers of a unary call to the end of its message.
        idle_s: between the messages of a stream, while the gateway waits for one.
        unread_s: for which a connection may leave responses unread.
    """

    receive_s: float = 60.0
    idle_s: float = 300.0
    unread_s: float = 30.0


class CallGuard(grpc.aio.ServerInterceptor):
    """Counts open calls, limits the waits for clients and refuses malformed messages.

    It comes after `AuthenticationInterceptor`.

    Args:
        calls: quotas of open calls.
        requires_tokens: whether callers are distinguished by tenant rather than by address.
        patience: time limits.
        metrics: counts refusals.
        parser: of the messages.
    """

    def __init__(
        self,
        calls: OpenCalls,
        requires_tokens: bool,
        patience: Patience,
        metrics: Metrics,
        parser: MessageParser,
    ) -> None:
        self._calls = calls
        self._requires_tokens = requires_tokens
        self._patience = patience
        self._metrics = metrics
        self._parser = parser
        self._turns = ReadingTurns()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the method's handler, guarded; None for an unknown method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method

        async def call(_: Any, context: Any) -> None:
            metadata = context.invocation_metadata() or ()
            context.set_trailing_metadata(((ID_KEY, adopt_request_id(metadata)),))
            # Health checks and reflection are no requests of users.
            with _span_of(method, metadata) as span:
                await guarded(context)
                span.answered(grpc.StatusCode.OK.name, is_fault=False)

        async def guarded(context: Any) -> None:
            try:
                with self._calls.hold(method, self._tenant(method), context.peer()):
                    await self._run(handler, context)
                return
            except grpc.aio.InternalError:
                # The client has gone while a response was sent, which is no error of the gateway.
                LOG.info("%s: its response could not be sent", method)
                raise asyncio.CancelledError from None
            except grpc.aio.AbortError as error:
                # gRPC keeps it until a garbage collection, and its frames hold the request.
                raise error.with_traceback(None) from None
            except CpcSamError as error:
                failure = error.with_traceback(None)
            self._report(method, failure)
            await abort_with(context, failure)

        return grpc.stream_stream_rpc_method_handler(
            call, response_serializer=handler.response_serializer
        )

    def _tenant(self, method: str) -> str | None:
        open_to_all = method.startswith(OPEN_TO_ALL)
        return (
            authenticated_principal().tenant if self._requires_tokens and not open_to_all else None
        )

    async def _run(self, handler: Any, context: Any) -> None:
        """Run a method of any of the four kinds; see `grpc.RpcMethodHandler`."""
        parse = handler.request_deserializer
        request: Any
        if handler.request_streaming:
            request = self._messages(parse, context)
        else:
            request = await self._message(parse, context, self._patience.receive_s)
            if request is None:
                raise ContractError.of(
                    "request", got="no message", expected="one", fix="send the request's message"
                )
        behaviour = (
            (handler.stream_stream if handler.response_streaming else handler.stream_unary)
            if handler.request_streaming
            else (handler.unary_stream if handler.response_streaming else handler.unary_unary)
        )
        if handler.response_streaming:
            outcome = behaviour(request, context)
            if asyncio.iscoroutine(outcome):
                await outcome  # it writes by itself, as the health service does
                return
            async with aclosing(outcome) as responses:
                async for response in responses:
                    await self._write(context, response)
        else:
            response = await behaviour(request, context)
            del request  # images are large, and clients may read slowly
            await self._write(context, response)

    async def _messages(self, parse: Any, context: Any) -> AsyncIterator[Any]:
        while True:
            message = await self._message(parse, context, self._patience.idle_s)
            if message is None:
                return
            yield message

    async def _message(self, parse: Any, context: Any, limit_s: float) -> Any:
        """Return the next message, None at the end of the stream.

        Raises:
            ContractError: it is no message of the method.
            LimitError: it has too many fields, or too long a text.
            DeadlineError: none came in time.
        """
        try:
            async with asyncio.timeout(limit_s):
                content = await self._turns.read(context)
        except TimeoutError:
            raise DeadlineError.of(
                "request",
                got=f"no message within {limit_s:.3g} s",
                expected="one in time",
                fix="send the message with its headers, and end streams that are not used",
            ) from None
        if content is grpc.aio.EOF:
            return None
        return await self._parser.parse(parse.__self__, content, context.peer())

    async def _write(self, context: Any, response: Any) -> None:
        """Send a response; end the connection of a client that reads nothing any more."""
        # A timer costs less than a task, which hardly any response needs.
        loop, watches = asyncio.get_running_loop(), []
        timer = loop.call_later(
            self._patience.unread_s / 2,
            lambda: watches.append(loop.create_task(self._close_when_unread(context.peer()))),
        )
        try:
            await context.write(response)
        finally:
            timer.cancel()
            for watch in watches:
                watch.cancel()

    async def _close_when_unread(self, peer: str) -> None:
        if await close_when_unread(peer, self._patience.unread_s / 2):
            self._metrics.rejected.labels("unread").inc()
            LOG.warning("%s left its responses unread, so its connection was closed", peer)

    def _report(self, method: str, error: CpcSamError) -> None:
        code = status_of_error(error).name
        tracing.current_span().answered(code, is_fault=code in tracing.SERVER_FAULTS)
        if isinstance(error, ContractError):
            self._metrics.rejected.labels("invalid").inc()
        elif type(error) is LimitError:  # no `FullError`, which is counted where it is raised
            self._metrics.rejected.labels("over_limit").inc()
        elif isinstance(error, DeadlineError):
            self._metrics.rejected.labels("slow").inc()
        name = method.rpartition("/")[2]
        LOG.info(
            "%s: %s before its request was read", method, code, extra={"method": name, "code": code}
        )


def _span_of(method: str, metadata: tracing.Headers) -> tracing.Span:
    name = method.removeprefix("/")
    if not name.startswith(tracing.SERVICE):
        return tracing.Span()
    return tracing.served_span(name, metadata, is_call=True)
