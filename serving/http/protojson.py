"""JSON mapping of protobuf messages, with the proto's own field names and numbers of 64 bits."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any, Final, ParamSpec, TypeVar

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from cpcsam.text import printable
from serving.http.problems import Problem

__all__ = ["in_thread_if_large", "json_of_message", "parse_json", "record_of_message"]

MAX_VALUES: Final = 300_000
"""Values of a JSON document: 256 prompts of 16 points are 13,000, and each value takes Python a
hundred bytes."""
MAX_DEPTH: Final = 32
MAX_TEXT: Final = 300
LARGE: Final = 64 * 1024
"""Bytes of a message that would keep the event loop busy for a millisecond and more."""
LONG_KINDS: Final = (
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_SINT64,
    FieldDescriptor.TYPE_FIXED64,
    FieldDescriptor.TYPE_SFIXED64,
)
# Messages quote what callers send, so the time of each must be linear in its text.
UNKNOWN: Final = re.compile(r'has no field named "([^"]*)" at "\w+((?:\.[^"]*)?)"')
PLACE: Final = re.compile(r" at \w+\.([\w.\[\]]+)$")
FAILED: Final = re.compile(r"^(?:Failed to parse (\w+) field: )+")

M = TypeVar("M", bound=Message)
P = ParamSpec("P")
T = TypeVar("T")


async def in_thread_if_large(
    size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run a conversion, in a thread if it would block the event loop.

    Args:
        size: bytes of what is converted.
        work: the conversion.
        args: of it.
        kwargs: of it.
    """
    if size <= LARGE:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


def parse_json(text: bytes, message: M) -> M:
    """Fill a message from JSON and return it.

    Args:
        text: an object in UTF-8, with field names as in the proto (or in camelCase).
        message: an empty one.

    Raises:
        Problem: 400, with the field at fault where it is known.
    """
    # Text in base64 has none of these.
    if sum(map(text.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise _problem(f"more than {MAX_VALUES} values", None)
    if text.lstrip()[:1] != b"{":
        raise _problem("no object", None)
    try:
        return json_format.Parse(text.decode(), message, max_recursion_depth=MAX_DEPTH)
    except UnicodeDecodeError:
        raise _problem("text that is not UTF-8", None) from None
    except json_format.ParseError as error:
        raise _unparsed(str(error)) from None
    except (RecursionError, ValueError, AttributeError, TypeError) as error:
        # What the parser does not expect, such as a list in place of the whole object.
        raise _problem(str(error), None) from None


def _unparsed(text: str) -> Problem:
    """Convert protobuf's message, such as `Failed to parse x field: ... at Message.prompts[0]`."""
    if unknown := UNKNOWN.search(text):
        path = f"{unknown[2]}.{unknown[1]}".lstrip(".")
        return _problem("an unknown field", printable(path, MAX_TEXT))
    line = text.partition("\n")[0]
    place = PLACE.search(line)
    failed = FAILED.search(line)
    field = place[1].rstrip(".") if place else failed[1] if failed else None
    return _problem(FAILED.sub("", PLACE.sub("", line)).rstrip("."), field)


def _problem(got: str, field: str | None) -> Problem:
    short = printable(got, MAX_TEXT)
    return Problem.of(
        400,
        "INVALID_ARGUMENT",
        f"{field or 'body'}: got {short}, expected the request's message in JSON; "
        "see /openapi.json",
        field,
    )


def record_of_message(message: Message) -> dict[str, Any]:
    """Return a message as what `json.dumps` takes; fields without presence are always there."""
    record = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    _numbers(record, _long_fields(message.DESCRIPTOR))
    return record


def json_of_message(message: Message) -> bytes:
    """Return a message as JSON in UTF-8; fields without presence are always printed."""
    return json.dumps(record_of_message(message), separators=(",", ":")).encode()


@cache
def _long_fields(descriptor: Descriptor) -> dict[str, Any]:
    """Return the names of fields of 64 bits, with True, and of messages that hold some."""
    found: dict[str, Any] = {}
    for field in descriptor.fields:
        if field.type in LONG_KINDS:
            found[field.name] = True
        elif field.message_type is not None and (below := _long_fields(field.message_type)):
            found[field.name] = below
    return found


def _numbers(record: dict[str, Any], names: dict[str, Any]) -> None:
    """Replace the strings by which protobuf prints integers of 64 bits."""
    for name, below in names.items():
        value = record.get(name)
        if value is None:
            continue
        several = isinstance(value, list)
        if below is True:
            record[name] = [*map(int, value)] if several else int(value)
        else:
            for each in value if several else (value,):
                _numbers(each, below)
