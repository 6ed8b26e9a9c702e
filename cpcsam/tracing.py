"""Spans of OpenTelemetry, in processes that have loaded its API; in all others nothing.

An application that traces has imported `opentelemetry.trace`, as has a server that was started with
tracing. Nothing here imports it first, so that a process without tracing loads and computes nothing
for it. Contexts travel in W3C `traceparent` headers, unless `OTEL_PROPAGATORS` says otherwise.

Exceptions and their messages are not recorded, as these may quote file names and requests; a failed
span has the status of its call, or the name of the exception's class.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "SERVICE",
    "Headers",
    "Span",
    "Value",
    "call_span",
    "current_span",
    "served_span",
    "span",
    "trace_ids",
]

API: Final = "opentelemetry.trace"
SERVICE: Final = "cpcsam.v1.Segmentation"
SERVER_FAULTS: Final = frozenset(
    ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
)
"""gRPC statuses by which the span of a server is failed; the others are the caller's fault."""

HEALTH_CHECK: Final = "CheckHealth"
"""Method of the client that is not of the service; polls would fill a trace."""

Headers = Iterable[tuple[str, str | bytes]]
"""Headers of HTTP or metadata of gRPC, names in lower case."""
Kind = Literal["CLIENT", "INTERNAL", "SERVER"]
Value = str | int | float | bool


class Span:
    """Span that runs while its block does; this class itself is the one that records nothing."""

    def __enter__(self) -> Self:
        """Start the span."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the span; one without a status fails by an exception."""

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Headers by which a callee continues the trace."""
        return ()

    @property
    def sampled_headers(self) -> tuple[tuple[str, str], ...]:
        """As `headers`, for callees that export whatever has a parent: none if it is not kept."""
        return ()

    def set(self, attributes: Mapping[str, Value], name: str | None = None) -> None:
        """Set attributes, and the name if one is given."""

    def answered(self, code: str, *, is_fault: bool) -> None:
        """Set the name of the gRPC status by which a call ended.

        Args:
            code: such as `OK`.
            is_fault: whether it fails the span.
        """

    def failed(self, cause: str) -> None:
        """Mark the span as failed by a cause of few possible ones."""


NOTHING: Final = Span()
_CURRENT: Final[ContextVar[Span]] = ContextVar("span", default=NOTHING)


class _RecordedSpan(Span):
    """Span of OpenTelemetry.

    Args:
        name: of few possible ones.
        kind: its role.
        attributes: from the start.
        parent: headers of the caller; None continues the current span.
        is_current: whether spans that start in the block are its children. The block of a
            generator may be left in another context than it was entered in.
    """

    def __init__(
        self,
        name: str,
        kind: Kind,
        attributes: Mapping[str, Value],
        parent: Headers | None,
        is_current: bool,
    ) -> None:
        self._arguments = name, kind, attributes, parent
        self._is_current = is_current
        self._tokens: Any = None
        self._has_status = False

    def __enter__(self) -> Self:
        from opentelemetry import context, trace

        name, kind, attributes, parent = self._arguments
        self._span: Any = _tracer(trace.get_tracer_provider()).start_span(
            name,
            context=None if parent is None else _context_of(parent),
            kind=trace.SpanKind[kind],
            attributes={**attributes},
        )
        self._context = trace.set_span_in_context(self._span)
        if self._is_current:
            self._tokens = context.attach(self._context), _CURRENT.set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            if self._arguments[1] == "CLIENT" and not self._has_status:
                self.answered("OK", is_fault=False)
        elif not self._has_status and not isinstance(error, GeneratorExit):
            code = getattr(error, "code", None)  # of a grpc.RpcError
            if callable(code):
                self.answered(code().name, is_fault=True)
            else:
                self.failed(type(error).__name__)
        if self._tokens is not None:
            from opentelemetry import context

            attached, current = self._tokens
            context.detach(attached)
            _CURRENT.reset(current)
        self._span.end()

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        from opentelemetry import propagate

        carrier: dict[str, str] = {}
        propagate.inject(carrier, context=self._context)
        return tuple(carrier.items())

    @property
    def sampled_headers(self) -> tuple[tuple[str, str], ...]:
        return self.headers if self._span.get_span_context().trace_flags.sampled else ()

    def set(self, attributes: Mapping[str, Value], name: str | None = None) -> None:
        self._span.set_attributes(attributes)
        if name is not None:
            self._span.update_name(name)

    def answered(self, code: str, *, is_fault: bool) -> None:
        self._span.set_attribute("rpc.response.status_code", code)
        self._has_status = True
        if is_fault:
            self.failed(code)

    def failed(self, cause: str) -> None:
        from opentelemetry.trace import StatusCode

        self._has_status = True
        self._span.set_attribute("error.type", cause)
        self._span.set_status(StatusCode.ERROR)


def span(name: str, attributes: Mapping[str, Value] | None = None, kind: Kind = "INTERNAL") -> Span:
    """Make a child of the current span, to be entered."""
    return (
        _RecordedSpan(name, kind, attributes or {}, None, True) if API in sys.modules else NOTHING
    )


def call_span(method: str, address: str, *, is_current: bool = True) -> Span:
    """Make the client's span of a call of the service; its `headers` go with the call.

    Args:
        method: of the service, such as `Segment`.
        address: HOST:PORT.
        is_current: False in generators.
    """
    if API not in sys.modules or method == HEALTH_CHECK:
        return NOTHING
    name = f"{SERVICE}/{method}"
    attributes = {**_call_attributes(name), "server.address": address}
    return _RecordedSpan(name, "CLIENT", attributes, None, is_current)


def served_span(name: str, parent: Headers, *, is_call: bool) -> Span:
    """Make the server's span of a request, which continues the trace of its headers.

    Args:
        name: SERVICE/METHOD, or the method of HTTP until the route is known.
        parent: headers of the request.
        is_call: whether it came by gRPC.
    """
    if API not in sys.modules:
        return NOTHING
    attributes = _call_attributes(name) if is_call else {"http.request.method": name}
    return _RecordedSpan(name, "SERVER", attributes, parent, True)


def current_span() -> Span:
    """Return the span of this module in whose block this is."""
    return _CURRENT.get()


def trace_ids() -> tuple[str, str] | None:
    """Return the ids of the current trace and span in hexadecimal; None outside of any."""
    if API not in sys.modules:
        return None
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)


def _call_attributes(method: str) -> dict[str, Value]:
    return {"rpc.system.name": "grpc", "rpc.method": method}


@functools.lru_cache(maxsize=1)
def _tracer(provider: Any) -> Any:
    return provider.get_tracer("cpcsam")


def _context_of(headers: Headers) -> Any:
    """Return the context that headers name: the first of each name, if it is text."""
    from opentelemetry import propagate
    from opentelemetry.context import Context

    carrier: dict[str, str] = {}
    fields = propagate.get_global_textmap().fields
    for name, value in headers:
        if name in fields and isinstance(value, str):
            carrier.setdefault(name, value)
    return propagate.extract(carrier, context=Context())
