"""Log lines as JSON, ids of requests, and when and to whom spans are exported."""

from __future__ import annotations

import contextvars
import json
import logging
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cpcsam import tracing
from cpcsam.errors import ConfigError
from serving.common.logs import JsonFormatter
from serving.common.request_ids import adopt_request_id, current_request_id
from serving.common.tracing import is_wanted, traced
from tests.support.servers.trace_collector import tracing_application

OTLP = "OTEL_EXPORTER_OTLP_ENDPOINT"
EXPORTER = "OTEL_TRACES_EXPORTER"


def line_of(message: str, error: Exception | None = None, **fields: object) -> dict[str, Any]:
    cause = None if error is None else (type(error), error, None)
    record = logging.LogRecord("a.b", logging.INFO, __file__, 1, message, None, cause)
    record.created = 1_700_000_000.25
    record.__dict__ |= fields
    text = JsonFormatter().format(record)
    assert text.isascii() and text.isprintable()
    line: dict[str, Any] = json.loads(text)
    return line


def test_json_line_has_the_fields_that_are_known() -> None:
    assert line_of("done") == {
        "ts": "2023-11-14T22:13:20.250Z",
        "level": "INFO",
        "logger": "a.b",
        "message": "done",
    }

    def in_request() -> dict[str, Any]:
        adopt_request_id([("x-request-id", "scan 17")])
        with tracing_application(InMemorySpanExporter()), tracing.span("work"):
            ids = tracing.trace_ids()
            line = line_of("done", method="Segment", code="OK", seconds=0.5, other=1)
        assert ids == (line.pop("trace_id"), line.pop("span_id"))
        return line

    line = contextvars.copy_context().run(in_request)
    assert [*line][4:] == ["request_id", "method", "code", "seconds"]
    assert [*line.values()][4:] == ["scan 17", "Segment", "OK", 0.5]


def test_json_line_of_hostile_text_is_one_short_line_of_ascii() -> None:
    line = line_of('a\x1b[31m"}\r\n{"level": "forged"\u2028é\udcff' + "x" * 10_000)
    assert line["level"] == "INFO" and line["message"].isprintable()
    assert line["message"].startswith(r'a\x1b[31m"}\r\n{"level": "forged"\u2028é\udcff')
    assert len(line["message"]) < 5000
    text = line_of("failed", ValueError("\x1b[31m of a caller"))["exception"]
    assert text.splitlines()[-1] == r"ValueError: \x1b[31m of a caller"


@pytest.mark.parametrize(
    ("given", "own", "expected"),
    [
        ("scan 17", "own", "scan 17"),
        (None, "own", "own"),
        ("a\nb", "own", "own"),
        (b"\xff", "own", "own"),
        ("x" * 129, "é", None),
        ("\x1b[31m", "x" * 129, None),
        ("", "", None),
    ],
)
def test_request_id_is_the_first_that_is_fit_for_logs(
    given: str | bytes | None, own: str, expected: str | None
) -> None:
    headers = [("other", "b")] if given is None else [("other", "b"), ("x-request-id", given)]

    def adopt() -> str:
        adopted = adopt_request_id(headers, own)
        assert adopt_request_id((), "") == adopted == current_request_id()
        return adopted

    adopted = contextvars.copy_context().run(adopt)
    assert adopted == expected or (expected is None and len(adopted) == 32 and adopted.isalnum())
    assert current_request_id() == ""


@pytest.mark.parametrize(
    ("option", "environment", "expected"),
    [
        (None, {}, False),
        (None, {"OTEL_SERVICE_NAME": "a"}, False),
        (None, {OTLP: "http://a:4317"}, True),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a:4317"}, True),
        (None, {EXPORTER: "console"}, True),
        (None, {EXPORTER: "none", OTLP: "http://a:4317"}, False),
        (None, {OTLP: "http://a:4317", "OTEL_SDK_DISABLED": "true"}, False),
        (False, {OTLP: "http://a:4317"}, False),
        (True, {}, True),
    ],
)
def test_tracing_is_as_the_option_or_else_the_variables_say(
    option: bool | None, environment: Mapping[str, str], expected: bool
) -> None:
    assert is_wanted(option, environment) is expected


@pytest.mark.parametrize(
    ("name", "value"),
    [(EXPORTER, "zipkin"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")],
)
def test_exporter_that_is_not_there_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name}: got '{value}', expected"), traced(True, "a"):
        raise AssertionError("not reached")


def test_traced_without_the_extra_serves_on_unless_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(EXPORTER, "otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with traced(None, "a"):
        assert "cpcsam[tracing]" in caplog.text
    with pytest.raises(ModuleNotFoundError), traced(True, "a"):
        raise AssertionError("not reached")
