"""Bounds on the fields of a message, checked on the wire before its objects are made.

An empty message of a repeated field takes two bytes on the wire and a hundred in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Final, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from cpcsam.grpc_errors import LimitError

__all__ = ["MAX_FIELDS", "MAX_RUN_LENGTHS", "check_fields"]

MAX_FIELDS: Final = 40_000
"""Fields of a message and of the messages in it."""
SMALL: Final = 32
"""Bytes up to which a message without repeated fields, or a packed list, is not looked into."""
MAX_TEXT: Final = 1 << 16
"""Bytes of a text."""
MAX_RUN_LENGTHS: Final = 4 << 20
"""Bytes of a mask's run lengths."""
RUN_LENGTHS: Final = "cpcsam.v1.CocoRle.counts"

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


class _Field(NamedTuple):
    """What is known of a field whose value has a length.

    Attributes:
        name: for messages.
        most: bytes, or what a message may have without being looked into.
        fields: of the message, if it is one.
    """

    name: str
    most: int
    fields: Mapping[int, _Field] | None


def check_fields(content: bytes, kind: type[Message]) -> None:
    """Count the fields of a serialised message; malformed content is left to the parser.

    Args:
        content: the message on the wire.
        kind: its type.

    Raises:
        LimitError: more than `MAX_FIELDS`, or too long a text or list.
    """
    _check(content, 0, len(content), _fields_of(kind.DESCRIPTOR), 0)


def _check(content: bytes, place: int, end: int, fields: Mapping[int, _Field], count: int) -> int:
    """Count the fields from a place to an end; return their number and those before."""
    while place < end:
        count += 1
        if count > MAX_FIELDS:
            raise LimitError.of(
                "request",
                got=f"more than {MAX_FIELDS} fields",
                expected=f"at most {MAX_FIELDS}",
                fix="split it over several requests",
            )
        tag = content[place]
        place += 1
        if tag >= 0x80:
            tag, place = _varint(content, place - 1, end)
        kind = tag & 7
        if kind == VARINT:
            _, place = _varint(content, place, end)
        elif kind == FIXED32:
            place += 4
        elif kind == FIXED64:
            place += 8
        elif kind == LENGTH:
            if place >= end:
                break
            size = content[place]
            place += 1
            if size >= 0x80:
                size, place = _varint(content, place - 1, end)
            if size > end - place:
                break
            field = fields.get(tag >> 3)
            if field is not None and size > field.most:
                if field.fields is None:
                    raise LimitError.of(
                        field.name,
                        got=f"{size} bytes",
                        expected=f"at most {field.most}",
                        fix="shorten it",
                    )
                count = _check(content, place, place + size, field.fields, count)
            place += size
    return count


def _varint(content: bytes, place: int, end: int) -> tuple[int, int]:
    """Return a number and the place after it; ends beyond `end` if it is malformed."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= end:
            break
        value |= (content[place] & 0x7F) << shift
        place += 1
        if content[place - 1] < 0x80:
            return value, place
    return 0, end + 1


@cache
def _fields_of(message: Descriptor) -> Mapping[int, _Field]:
    return {
        field.number: known for field in message.fields if (known := _field_of(field)) is not None
    }


def _field_of(field: FieldDescriptor) -> _Field | None:
    """Return the bounds of a field; None where the size of the message bounds it."""
    if field.type == FieldDescriptor.TYPE_BYTES:
        return None
    if field.type == FieldDescriptor.TYPE_STRING:
        return _Field(
            field.name, MAX_RUN_LENGTHS if field.full_name == RUN_LENGTHS else MAX_TEXT, None
        )
    if field.message_type is None:
        return _Field(field.name, SMALL, None) if field.is_repeated else None
    fields = _fields_of(field.message_type)
    return _Field(field.name, 0 if _has_repeated(field.message_type) else SMALL, fields)


def _has_repeated(message: Descriptor) -> bool:
    return any(
        field.is_repeated or (field.message_type is not None and _has_repeated(field.message_type))
        for field in message.fields
    )
