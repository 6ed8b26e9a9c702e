"""Whether the API still serves the clients of the last release.

    python -m tools.proto_compatibility RELEASED CURRENT

Both are folders that hold .proto files. What was released may move from one file of its package to
another, and anything may be added. What breaks a client, on the wire, in JSON or in its source, is
printed, a line each, and the exit code is 1: a message, field, enum, value, service or method that
is gone, has another name or number, another type, cardinality or oneof; and a reservation that is
lifted.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from google.protobuf import descriptor_pb2 as pb

from cpcsam.commands import ArgumentParser, exit_code_of
from cpcsam.errors import ConfigError

__all__ = ["breaking_changes", "compile_protos", "main"]

T = TypeVar("T", pb.FieldDescriptorProto, pb.EnumValueDescriptorProto)
Field = pb.FieldDescriptorProto
STREAMING: Final = {(False, False): "no stream", (True, False): "a stream of requests"} | {
    (False, True): "a stream of answers",
    (True, True): "streams both ways",
}


def compile_protos(folder: Path) -> pb.FileDescriptorSet:
    """Descriptors of all .proto files below a folder, which is also where imports are looked up.

    Raises:
        ConfigError: there is none, or they do not compile.
    """
    files = sorted(str(path.relative_to(folder)) for path in folder.glob("cpcsam/**/*.proto"))
    if not files:
        raise ConfigError.of(
            str(folder), got="no cpcsam/**/*.proto", expected="the API", fix="correct the path"
        )
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "set"
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "grpc_tools.protoc",
                "-I.",
                f"--descriptor_set_out={out}",
                *files,
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ConfigError.of(
                str(folder),
                got=done.stderr.partition("\n")[0],
                expected="files that compile",
                fix="correct them",
            )
        return pb.FileDescriptorSet.FromString(out.read_bytes())


def breaking_changes(released: pb.FileDescriptorSet, current: pb.FileDescriptorSet) -> list[str]:
    """What clients of `released` cannot rely on in `current`, a line each."""
    old, new = _definitions(released), _definitions(current)
    return [
        line
        for name, definition in old.items()
        for line in _changes(name, definition, new.get(name))
    ]


def _definitions(files: pb.FileDescriptorSet) -> dict[str, Any]:
    """Messages, enums and services by full name, wherever they stand."""

    def within(prefix: str, messages: Iterable[Any], enums: Iterable[Any]) -> Iterator[Any]:
        for enum in enums:
            yield f"{prefix}{enum.name}", enum
        for message in messages:
            yield f"{prefix}{message.name}", message
            yield from within(f"{prefix}{message.name}.", message.nested_type, message.enum_type)

    definitions: dict[str, Any] = {}
    for file in files.file:
        definitions |= within(f"{file.package}.", file.message_type, file.enum_type)
        definitions |= {f"{file.package}.{service.name}": service for service in file.service}
    return definitions


def _changes(name: str, old: Any, new: Any) -> Iterator[str]:
    if new is None:
        yield f"{name} is gone"
    elif type(old) is not type(new):
        yield f"{name} is of another kind"
    elif isinstance(old, pb.ServiceDescriptorProto):
        yield from _method_changes(name, old, new)
    elif isinstance(old, pb.EnumDescriptorProto):
        yield from _member_changes(name, old.value, new.value, lambda value: value.number)
        yield from _reservation_changes(name, old, new)
    else:
        yield from _member_changes(name, old.field, new.field, lambda field: field.number)
        fields = {field.name: field for field in new.field}
        for field in old.field:
            if field.name in fields:
                yield from _field_changes(name, field, old, fields[field.name], new)
        yield from _reservation_changes(name, old, new)


def _member_changes(
    name: str, old: Iterable[T], new: Sequence[T], number_of: Callable[[T], int]
) -> Iterator[str]:
    """Fields or values that are gone, renamed or renumbered."""
    numbers = {member.name: number_of(member) for member in new}
    names = {number_of(member): member.name for member in reversed(new)}
    for member in old:
        number = number_of(member)
        if member.name in numbers:
            if numbers[member.name] != number:
                yield f"{name}.{member.name}: number {number} is now {numbers[member.name]}"
        elif number in names:
            yield f"{name}.{member.name} ({number}) is now called {names[number]}"
        else:
            yield f"{name}.{member.name} ({number}) is gone"


def _field_changes(
    name: str, old: Field, old_message: Any, new: Field, new_message: Any
) -> Iterator[str]:
    for what, tell in (
        ("type", lambda field, _: field.type_name or Field.Type.Name(field.type)),
        ("cardinality", lambda field, _: Field.Label.Name(field.label)),
        ("presence", lambda field, _: "optional" if field.proto3_optional else "plain"),
        ("oneof", _oneof),
        ("JSON name", lambda field, _: field.json_name),
    ):
        before, after = tell(old, old_message), tell(new, new_message)
        if before != after:
            yield f"{name}.{old.name}: {what} {before} is now {after}"


def _oneof(field: Field, message: Any) -> str:
    """Name of the oneof in which a field stands; proto3 makes one of each optional field."""
    inside = field.HasField("oneof_index") and not field.proto3_optional
    return str(message.oneof_decl[field.oneof_index].name) if inside else "none"


def _reservation_changes(name: str, old: Any, new: Any) -> Iterator[str]:
    for reserved in set(old.reserved_name) - set(new.reserved_name):
        yield f"{name}: the name {reserved} is no longer reserved"
    # The last number of a range belongs to it in enums and not in messages.
    beyond = 1 if isinstance(old, pb.EnumDescriptorProto) else 0
    for one in old.reserved_range:
        for number in range(one.start, one.end + beyond):
            if not any(other.start <= number < other.end + beyond for other in new.reserved_range):
                yield f"{name}: the number {number} is no longer reserved"


def _method_changes(name: str, old: Any, new: Any) -> Iterator[str]:
    methods = {method.name: method for method in new.method}
    for method in old.method:
        now = methods.get(method.name)
        if now is None:
            yield f"{name}.{method.name} is gone"
            continue
        for what, tell in (
            ("request", lambda one: one.input_type),
            ("answer", lambda one: one.output_type),
            ("streaming", lambda one: STREAMING[one.client_streaming, one.server_streaming]),
        ):
            if tell(method) != tell(now):
                yield f"{name}.{method.name}: {what} {tell(method)} is now {tell(now)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 if nothing breaks, 1 if something does, 2 after an error, told in one line.
    """
    parser = ArgumentParser(prog="python -m tools.proto_compatibility", description=__doc__)
    for name in ("released", "current"):
        parser.add_argument(name, type=Path, help=f"folder of the {name} .proto files")
    args = parser.parse_args(argv)
    broken: list[str] = []

    def compare() -> None:
        broken.extend(breaking_changes(compile_protos(args.released), compile_protos(args.current)))

    code = exit_code_of(compare, parser.prog)
    for line in broken:
        print(line)
    return code or min(len(broken), 1)


if __name__ == "__main__":
    sys.exit(main())
