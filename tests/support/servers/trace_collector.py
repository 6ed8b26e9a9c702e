"""A collector of OpenTelemetry: OTLP over gRPC, and over HTTP in JSON, as Triton sends it."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter

RPC = "cpcsam.v1.Segmentation/Segment"


@dataclass(frozen=True)
class CollectedSpan:
    """A span; ids in hexadecimal, the parent's empty without one."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: Mapping[str, Any]
    failed: bool


class TraceCollector(pb_grpc.TraceServiceServicer):
    """Keeps `spans`, and as `text` all that it was sent."""

    def __init__(self) -> None:
        self.endpoint = self.http_url = self.text = ""
        self.spans: list[CollectedSpan] = []

    def Export(self, request: Any, context: object) -> Any:  # noqa: N802
        self.keep(MessageToDict(request), lambda text: base64.b64decode(text).hex())
        return pb.ExportTraceServiceResponse()

    def keep(self, record: Any, hex_of: Any) -> None:
        """Keep what OTLP sent as JSON, whose ids `hex_of` decodes."""
        self.text += json.dumps(record)
        for resource in record["resourceSpans"]:
            service = attributes_of(resource["resource"])["service.name"]
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    ids = (hex_of(span.get(f"{name}Id", "")) for name in ("trace", "span"))
                    parent_id = hex_of(span.get("parentSpanId", ""))
                    failed = span.get("status", {}).get("code", 0) in (2, "STATUS_CODE_ERROR")
                    self.spans.append(
                        CollectedSpan(
                            service, span["name"], *ids, parent_id, attributes_of(span), failed
                        )
                    )

    def whole_call(self, root: str, triton_requests: int) -> str:
        """Wait for a trace with so many requests of Triton below a span `root`; return its id.

        Call several times: Triton loses the spans of some calls (`findings/triton-traces-lost.sh`).
        """
        deadline = time.monotonic() + 60
        while True:
            roots = [span.trace_id for span in self.spans if span.name == root]
            of_triton = Counter(span.trace_id for span in self.spans if span.name == "InferRequest")
            for trace_id in roots:
                if of_triton[trace_id] == triton_requests:
                    return trace_id
            assert time.monotonic() < deadline, [(s.trace_id, s.name) for s in self.spans]
            time.sleep(0.05)

    def path(self, span: CollectedSpan) -> list[str]:
        """The names from the root, or the oldest known ancestor, to a span."""
        parents = {each.span_id: each for each in self.spans}
        names = [span.name]
        while span.parent_id in parents:
            span = parents[span.parent_id]
            names.insert(0, span.name)
        return names


def attributes_of(record: Any) -> dict[str, Any]:
    return {one["key"]: next(iter(one["value"].values())) for one in record.get("attributes", ())}


@contextmanager
def trace_collector() -> Iterator[TraceCollector]:
    collector = TraceCollector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # Triton keeps its connection, as to a real collector

        def do_POST(self) -> None:  # noqa: N802
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.keep(json.loads(body), str)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = grpc.server(ThreadPoolExecutor(2))
    pb_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        collector.http_url = f"http://127.0.0.1:{web.server_port}/v1/traces"
        threading.Thread(target=web.serve_forever, daemon=True).start()
        server.start()
        try:
            yield collector
        finally:
            server.stop(None).wait()
            web.shutdown()


@contextmanager
def tracing_application(exporter: SpanExporter) -> Iterator[Any]:
    """A tracer of this process, as an application of its own has it; spans end up in `exporter`."""
    provider = TracerProvider(resource=Resource({"service.name": "app"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "_TRACER_PROVIDER", provider)
        yield trace.get_tracer("app")
    provider.shutdown()


def require_spans_of_a_call(collector: TraceCollector, trace_id: str) -> None:
    """Require the spans of the application's call, down to Triton's."""
    spans = [span for span in collector.spans if span.trace_id == trace_id]
    paths = [collector.path(span) for span in spans]
    ours = ["scan", "segment", RPC, RPC]
    assert {span.service for span in spans} == {"app", "cpcsam-gateway", "cpcsam-triton"}
    for below in (
        ["headers"],
        ["queue"],
        ["answers"],
        ["triton segment", "InferRequest", "segment", "preprocess", "compute"],
        ["triton segment", "InferRequest", "segment", "decoder", "compute"],
        ["triton decode", "InferRequest", "decode"],
    ):
        assert [*ours, *below] in paths, paths
    (served_call,) = (s for s in spans if s.name == RPC and s.service == "cpcsam-gateway")
    assert served_call.attributes.items() >= {
        ("rpc.response.status_code", "OK"),
        ("cpcsam.prompts", "17"),
        ("cpcsam.image.height", "20"),
        ("cpcsam.image.width", "30"),
        ("cpcsam.cached", False),
        ("cpcsam.model_version", "1"),
        ("cpcsam.tenant", "lab"),
    }
    assert not any(span.failed for span in spans)
