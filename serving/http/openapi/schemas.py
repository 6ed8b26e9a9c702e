"""JSON schemas of the API's messages and enums, from their descriptors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

__all__ = ["reference_to", "schemas_of"]

Schema = dict[str, Any]
MAX_SAFE: Final = 2**53 - 1
SCALARS: Final[Mapping[int, Schema]] = {
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_INT32: {
        "type": "integer",
        "format": "int32",
        "minimum": -(2**31),
        "maximum": 2**31 - 1,
    },
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    FieldDescriptor.TYPE_UINT64: {"type": "integer", "minimum": 0, "maximum": MAX_SAFE},
}


def reference_to(descriptor: Descriptor | EnumDescriptor) -> Schema:
    """Return the reference to a message's or an enum's schema."""
    return {"$ref": f"#/components/schemas/{descriptor.name}"}


def schemas_of(
    requests: Iterable[Descriptor], answers: Iterable[Descriptor], comments: Mapping[str, str]
) -> dict[str, Schema]:
    """Return the schemas of messages, and of all messages and enums that they hold, by name.

    Messages of requests admit no other fields. Those of answers alone always have all fields
    without presence.

    Args:
        requests: messages that callers send.
        answers: messages that callers get.
        comments: as `proto_comments` reads them.
    """
    sent, got = _closure(requests), _closure(answers)
    found: dict[str, Schema] = {}
    for descriptor in {**sent, **got}.values():
        if isinstance(descriptor, EnumDescriptor):
            found[descriptor.name] = _enum(descriptor, comments)
        else:
            found[descriptor.name] = _message(
                descriptor, comments, is_sent=descriptor.full_name in sent
            )
    return dict(sorted(found.items()))


def _closure(roots: Iterable[Descriptor]) -> dict[str, Descriptor | EnumDescriptor]:
    """Return messages and enums that are reached from others, by full name."""
    found: dict[str, Descriptor | EnumDescriptor] = {}
    waiting: list[Descriptor] = [*roots]
    while waiting:
        descriptor = waiting.pop()
        if descriptor.full_name in found:
            continue
        found[descriptor.full_name] = descriptor
        for field in descriptor.fields:
            if field.message_type is not None:
                waiting.append(field.message_type)
            if field.enum_type is not None:
                found[field.enum_type.full_name] = field.enum_type
    return found


def _message(descriptor: Descriptor, comments: Mapping[str, str], *, is_sent: bool) -> Schema:
    schema: Schema = {"type": "object"}
    _describe(schema, descriptor.full_name, comments)
    schema["properties"] = {field.name: _field(field, comments) for field in descriptor.fields}
    if is_sent:
        schema["additionalProperties"] = False
    else:
        always = [field.name for field in descriptor.fields if not field.has_presence]
        if always:
            schema["required"] = always
    choices = [_at_most_one(oneof.fields) for oneof in descriptor.oneofs if len(oneof.fields) > 1]
    if choices:
        schema["allOf"] = choices
    return schema


def _at_most_one(fields: Iterable[FieldDescriptor]) -> Schema:
    names = [field.name for field in fields]
    pairs = [
        {"required": [name, other]}
        for index, name in enumerate(names)
        for other in names[index + 1 :]
    ]
    return {"not": pairs[0] if len(pairs) == 1 else {"anyOf": pairs}}


def _field(field: FieldDescriptor, comments: Mapping[str, str]) -> Schema:
    if field.message_type is not None:
        one = reference_to(field.message_type)
    elif field.enum_type is not None:
        one = reference_to(field.enum_type)
    else:
        one = dict(SCALARS[field.type])
    schema: Schema = {"type": "array", "items": one} if field.is_repeated else one
    _describe(schema, field.full_name, comments)
    return schema


def _enum(descriptor: EnumDescriptor, comments: Mapping[str, str]) -> Schema:
    schema: Schema = {"type": "string", "enum": [value.name for value in descriptor.values]}
    _describe(schema, descriptor.full_name, comments)
    lines = [
        f"- `{value.name}`: {comments[name]}"
        for value in descriptor.values
        if (name := f"{descriptor.full_name}.{value.name}") in comments
    ]
    if lines:
        own = schema.get("description")
        schema["description"] = "\n\n".join(filter(None, [own, "\n".join(lines)]))
    return schema


def _describe(schema: Schema, name: str, comments: Mapping[str, str]) -> None:
    if name in comments:
        schema["description"] = comments[name]
