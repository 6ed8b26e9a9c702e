"""Checked members of JSON objects that callers send."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from serving.http.problems import Problem

__all__ = [
    "invalid",
    "list_member",
    "number_member",
    "object_member",
    "parse_object",
    "text_member",
]

MAX_VALUES: Final = 3_000_000
"""Values of a JSON document, each of which takes Python up to a hundred bytes; strokes of a brush
are lists of numbers."""
NAMES: Final = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}


def invalid(what: str, got: str, expected: str, fix: str) -> Problem:
    """Build the refusal of a request that can never succeed."""
    detail = f"{what}: got {got}, expected {expected}; {fix}"
    return Problem.of(400, "INVALID_ARGUMENT", detail, what)


def parse_object(body: bytes) -> Mapping[str, Any]:
    """Parse a JSON object.

    Raises:
        Problem: 400, it is none, or one of too many values.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise invalid("body", f"more than {MAX_VALUES} values", "fewer", "send fewer tasks")
    try:
        record = json.loads(body)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise invalid("body", "something else", "a JSON object", "see Label Studio's ML backends")
    return record


def object_member(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a member that is an object; an empty one if it is null or missing.

    Raises:
        Problem: 400, it is something else.
    """
    found: Mapping[str, Any] = _member(record, name, dict, {})
    return found


def list_member(record: Mapping[str, Any], name: str) -> list[Any]:
    """Return a member that is a list; an empty one if it is null or missing.

    Raises:
        Problem: 400, it is something else.
    """
    found: list[Any] = _member(record, name, list, [])
    return found


def text_member(record: Mapping[str, Any], name: str) -> str:
    """Return a member that is a text; an empty one if it is null or missing.

    Raises:
        Problem: 400, it is something else.
    """
    found: str = _member(record, name, str, "")
    return found


def number_member(record: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """Return a member that is a finite number; the default if it is null or missing.

    Raises:
        Problem: 400, it is something else, or there is no default.
    """
    value = record.get(name)
    value = default if value is None else value
    number = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):
            number = float(value)
    if not math.isfinite(number):
        raise invalid(name, "something else", "a number", "correct it")
    return number


def _member(record: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = record.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise invalid(name, type(value).__name__, NAMES[kind], "correct it")
    return value
