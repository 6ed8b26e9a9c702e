"""Comments of the API's proto files, which descriptors of Python do not keep."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files
from typing import Final

__all__ = ["comments_of", "proto_comments"]

PACKAGE: Final = "cpcsam.v1"
BLOCK: Final = re.compile(r"(?:message|enum|oneof|service)\s+(\w+)\s*\{")
MEMBER: Final = re.compile(r"(?:rpc\s+(\w+)\(|.*?(\w+)\s*=\s*-?\d+\s*;)")


def proto_comments() -> dict[str, str]:
    """Return the comments of all proto files of the package, by full name of what they precede.

    Keys are as `full_name` of descriptors, but of enum values `cpcsam.v1.Enum.VALUE`.
    """
    found: dict[str, str] = {}
    for file in sorted(files(PACKAGE).iterdir(), key=lambda each: each.name):
        if file.name.endswith(".proto"):
            found |= comments_of(file.read_text().splitlines())
    return found


def comments_of(lines: Iterable[str], package: str = PACKAGE) -> dict[str, str]:
    """Return the comments of one proto file, formatted as buf does: a statement begins a line.

    Args:
        lines: of the file.
        package: which the names begin with.
    """
    found: dict[str, str] = {}
    names: list[str | None] = []
    comment: list[str] = []

    def keep(name: str) -> None:
        if comment:
            scope = [each for each in names if each is not None]
            found[".".join([package, *scope, name])] = _text(comment)

    for line in map(str.strip, lines):
        if line.startswith("//"):
            comment.append(line.removeprefix("//").strip())
            continue
        if block := BLOCK.match(line):
            keep(block[1])
            # A oneof is no part of the full names of its fields.
            if not line.endswith("}"):
                names.append(None if line.startswith("oneof") else block[1])
        elif line.startswith("}"):
            names.pop()
        elif member := MEMBER.match(line):
            keep(member[1] or member[2])
        comment.clear()
    return found


def _text(lines: Iterable[str]) -> str:
    """Join lines to paragraphs, which empty ones divide."""
    return "\n\n".join(" ".join(part.split()) for part in "\n".join(lines).split("\n\n"))
