"""Log lines into which foreigners put no secrets, no control characters and no long texts."""

from __future__ import annotations

import argparse
import json
import logging
from datetime import UTC, datetime
from typing import Any, Final, Literal

from cpcsam.text import printable
from cpcsam.tracing import trace_ids
from serving.common.request_ids import current_request_id

__all__ = [
    "JsonFormatter",
    "LineFormatter",
    "add_log_options",
    "configure_logging",
    "guard_grpc_logger",
]

LogFormat = Literal["json", "text"]
FORMAT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
MAX_LINE: Final = 4000
"""Characters of a line."""
FIELDS: Final = ("method", "route", "code", "seconds")
"""Attributes of records, from `extra`, that are fields of their own in JSON."""
GRPC_LOGGER: Final = "grpc._cython.cygrpc"
GRPC_SECRETS: Final = "Invalid encoding"
"""Beginning of gRPC's message about metadata that is not UTF-8, which it quotes whole."""


class LineFormatter(logging.Formatter):
    """Formatter whose messages are printable, on one line and not too long."""

    def __init__(self) -> None:
        super().__init__(FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Format the line that precedes a traceback."""
        record.message = printable(record.message, MAX_LINE)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Format a traceback; its last line may quote anything."""
        lines = super().formatException(ei).splitlines()
        return "\n".join(printable(line, MAX_LINE) for line in lines)


class JsonFormatter(LineFormatter):
    """Formatter of one JSON object a line, in ASCII.

    Its fields are `ts` (ISO 8601, UTC), `level`, `logger` and `message`; where they are known, the
    `request_id`, the `trace_id` and `span_id` of OpenTelemetry, those of `FIELDS` and `exception`,
    a traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        ts = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "ts": ts.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": printable(record.getMessage(), MAX_LINE),
        }
        if request_id := current_request_id():
            line["request_id"] = request_id
        if ids := trace_ids():
            line["trace_id"], line["span_id"] = ids
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def add_log_options(parser: argparse._ActionsContainer) -> None:
    """Add the option of `configure_logging`."""
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="log lines as text or as JSON objects, with ids of requests and traces (%(default)s)",
    )


def configure_logging(log_format: LogFormat = "text") -> None:
    """Log to stderr from the level INFO on; in JSON, Python's own warnings as well."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else LineFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(log_format == "json")


def guard_grpc_logger() -> None:
    """Keep gRPC from logging metadata, such as malformed credentials."""
    logging.getLogger(GRPC_LOGGER).addFilter(_without_metadata)


def _without_metadata(record: logging.LogRecord) -> bool:
    if str(record.msg).startswith(GRPC_SECRETS):
        record.msg, record.args = "metadata that is not UTF-8, not shown", None
        record.exc_info = record.exc_text = None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True
