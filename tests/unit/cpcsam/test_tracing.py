"""Spans: none without the API, parents from hostile headers, and those of both clients' calls."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cpcsam import tracing
from cpcsam.client import (
    AsyncSegmentationClient,
    Prompt,
    SegmentationClient,
    SegmentRequest,
    encode_image,
)
from cpcsam.errors import ContractError
from tests.support.servers.gateway_peer import peer_gateway
from tests.support.servers.trace_collector import tracing_application

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
RPC = "cpcsam.v1.Segmentation/Segment"
BOX = Prompt(box=(1, 1, 6, 5))


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    with tracing_application(exporter):
        yield exporter


def test_without_the_api_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "opentelemetry.trace")
    made = (
        tracing.span("a"),
        tracing.call_span("Segment", "a:1"),
        tracing.served_span(RPC, (("traceparent", "x"),), is_call=True),
        tracing.current_span(),
    )
    assert {*map(id, made)} == {id(tracing.NOTHING)}
    with made[0] as span:
        assert (span.headers, span.sampled_headers, tracing.trace_ids()) == ((), (), None)
    assert "opentelemetry.trace" not in sys.modules


@pytest.mark.parametrize(
    ("headers", "trace_id", "parent_id"),
    [
        ([("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-01")], TRACE_ID, PARENT_ID),
        (
            [("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-01"), ("traceparent", "00-1-1-01")],
            TRACE_ID,
            PARENT_ID,
        ),
        ([("traceparent", b"\xff"), ("authorization", "secret")], None, None),
        ([("traceparent", "\x1b[31m" * 1000), ("tracestate", "a=b" * 1000)], None, None),
        ([("traceparent", f"00-{'0' * 32}-{PARENT_ID}-01")], None, None),
        ([], None, None),
    ],
)
def test_served_span_continues_the_trace_of_sound_headers(
    exporter: InMemorySpanExporter,
    headers: list[tuple[str, str | bytes]],
    trace_id: str | None,
    parent_id: str | None,
) -> None:
    with (
        tracing.span("of another request"),
        tracing.served_span(RPC, headers, is_call=True) as span,
    ):
        assert tracing.current_span() is span
        assert tracing.trace_ids() is not None
        (name, passed_on), *_ = span.headers
    served, other = exporter.get_finished_spans()
    assert (name, f"{served.context.trace_id:032x}-{served.context.span_id:016x}") == (
        "traceparent",
        passed_on[3:-3],
    )
    assert served.context.trace_id != other.context.trace_id
    if trace_id is None:
        assert served.parent is None
    else:
        assert served.parent is not None
        assert f"{served.context.trace_id:032x}" == trace_id
        assert f"{served.parent.span_id:016x}" == parent_id


def test_callee_that_exports_whatever_has_a_parent_gets_none_that_is_not_sampled(
    exporter: InMemorySpanExporter,
) -> None:
    parent = (("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-00"),)
    with tracing.served_span(RPC, parent, is_call=True) as span:
        assert dict(span.headers)["traceparent"].endswith("-00")
        assert span.sampled_headers == ()
    assert not exporter.get_finished_spans()


def test_failed_span_has_a_cause_but_no_message(exporter: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="secret"), tracing.span("work"):
        raise ValueError("a secret of /a/file")
    with pytest.raises(ValueError, match="secret"), tracing.span("refused") as refused:
        refused.answered("INVALID_ARGUMENT", is_fault=False)
        raise ValueError("a secret")
    work, other = exporter.get_finished_spans()
    assert (work.attributes, work.status.status_code.name) == (
        {"error.type": "ValueError"},
        "ERROR",
    )
    assert other.attributes == {"rpc.response.status_code": "INVALID_ARGUMENT"}
    assert other.status.status_code.name == "UNSET"
    assert "secret" not in work.to_json() + other.to_json()


def calls_of(kind: type[Any], address: str) -> None:
    """An image, a refused one, a stream of one request, and a health check."""
    image = encode_image(np.zeros((12, 16, 3), np.uint8))
    requests = [SegmentRequest(image, [BOX])]
    if kind is SegmentationClient:
        with SegmentationClient(address, retry=False) as client:
            client.segment(image, [BOX])
            with pytest.raises(ContractError):
                client.segment(b"broken", [BOX])
            assert len([*client.segment_stream(requests)]) == 1
            assert client.healthy() is True
        return

    async def run() -> None:
        async with AsyncSegmentationClient(address, retry=False) as client:
            await client.segment(image, [BOX])
            with pytest.raises(ContractError):
                await client.segment(b"broken", [BOX])
            assert len([one async for one in client.segment_stream(requests)]) == 1
            assert await client.healthy() is True

    asyncio.run(run())


@pytest.mark.parametrize("kind", [SegmentationClient, AsyncSegmentationClient])
def test_calls_of_a_client_are_spans_whose_context_is_sent(
    kind: type[Any], exporter: InMemorySpanExporter
) -> None:
    with peer_gateway() as (address, peer), tracing.span("application"):
        calls_of(kind, address)
    spans = exporter.get_finished_spans()
    application = spans[-1]
    found = [(span.name, span.attributes.get("rpc.response.status_code")) for span in spans]
    assert found == [
        (RPC, "OK"),
        ("segment", None),
        (RPC, "INVALID_ARGUMENT"),
        ("segment", None),
        (f"{RPC}Stream", "OK"),
        ("application", None),
    ]
    assert {span.context.trace_id for span in spans} == {application.context.trace_id}
    sent = [f"{span.context.span_id:016x}" for span in spans if RPC in span.name]
    assert [parent.split("-")[2] for parent in peer.parents] == sent
    assert [span.status.status_code.name for span in spans if RPC in span.name] == [
        "UNSET",
        "ERROR",
        "UNSET",
    ]
