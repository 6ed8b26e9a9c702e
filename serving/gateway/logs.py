"""Log lines into which foreigners put no secrets, no control characters and no long texts."""

from __future__ import annotations

import logging
from typing import Any, Final

from cpcsam.text import printable

__all__ = ["LineFormatter", "configure_logging", "guard_grpc_logger"]

FORMAT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
MAX_LINE: Final = 4000
"""Characters of a line."""
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


def configure_logging() -> None:
    """Log to stderr from the level INFO on."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def guard_grpc_logger() -> None:
    """Keep gRPC from logging metadata, such as malformed credentials."""
    logging.getLogger(GRPC_LOGGER).addFilter(_without_metadata)


def _without_metadata(record: logging.LogRecord) -> bool:
    if str(record.msg).startswith(GRPC_SECRETS):
        record.msg, record.args = "metadata that is not UTF-8, not shown", None
        record.exc_info = record.exc_text = None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True
