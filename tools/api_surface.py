"""Command: what callers of the API rely on, a line each; a later release keeps all of them.

python -m tools.api_surface > cpcsam/v1/released.txt
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from google.protobuf.descriptor import FileDescriptor

from cpcsam.v1 import segmentation_pb2 as pb

__all__ = ["RELEASED", "surface"]

RELEASED: Final = Path(__file__).resolve().parents[1] / "cpcsam/v1/released.txt"
"""The lines of the last release."""


def surface() -> list[str]:
    """Methods with their messages, fields with number and kind, and values of enumerations."""
    return sorted(line for file in _files(pb.DESCRIPTOR) for line in _lines(file))


def _files(file: FileDescriptor) -> list[FileDescriptor]:
    return [file, *file.dependencies]


def _lines(file: FileDescriptor) -> Iterator[str]:
    for service in file.services_by_name.values():
        for method in service.methods:
            asked, told = (
                ("stream " if streamed else "") + message.name
                for streamed, message in (
                    (method.client_streaming, method.input_type),
                    (method.server_streaming, method.output_type),
                )
            )
            yield f"{service.name}.{method.name}({asked}) returns {told}"
    for message in file.message_types_by_name.values():
        for field in message.fields:
            kind = field.message_type or field.enum_type
            many = "repeated " if field.is_repeated else "optional " if field.has_presence else ""
            name = kind.name if kind else f"type {field.type}"
            yield f"{message.name}.{field.name} = {field.number}, {many}{name}"
    for enum in file.enum_types_by_name.values():
        for value in enum.values:
            yield f"{enum.name}.{value.name} = {value.number}"


if __name__ == "__main__":
    print("\n".join(surface()))
