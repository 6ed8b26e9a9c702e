"""Breaking changes of the API are distinguished from compatible ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tools.proto_compatibility import GAINED_PRESENCE, breaking_changes, main

RELEASED = """\
syntax = "proto3";
package cpcsam.v1;

service Work {
  rpc Do(Request) returns (Answer);
}

enum Kind {
  KIND_NONE = 0;
  KIND_SOME = 1;
}

message Request {
  reserved 8 to 9;
  reserved "old";
  string name = 1;
  repeated uint32 sizes = 2;
  optional float part = 3;
  oneof image {
    bytes content = 4;
    string id = 5;
  }
  Kind kind = 6;
  Inner inner = 7;
  message Inner {
    int32 depth = 1;
  }
}

message Answer {}
"""


def written(folder: Path, text: str, name: str = "work.proto") -> Path:
    (folder / "cpcsam/v1").mkdir(parents=True, exist_ok=True)
    (folder / "cpcsam/v1" / name).write_text(text)
    return folder


def edited(old: str, new: str) -> str:
    assert RELEASED.count(old) == 1
    return RELEASED.replace(old, new)


def test_current_api_is_compatible_with_the_last_release(monkeypatch: pytest.MonkeyPatch) -> None:
    assert main([str(ROOT / "tools/released"), str(ROOT)]) == 0
    monkeypatch.chdir(ROOT)
    assert main(["tools/released", "."]) == 0, "as make lint runs it"


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        ("  string name = 1;\n", "", 'field "1" with name "name" on message "Request" was deleted'),
        (
            "string name = 1;",
            "string name = 11;",
            'field "1" with name "name" on message "Request" was deleted',
        ),
        (
            "string name = 1;",
            "string label = 1;",
            'on message "Request" changed name from "name" to "label"',
        ),
        (
            "string name = 1;",
            "bytes name = 1;",
            'on message "Request" changed type from "string" to "bytes"',
        ),
        (
            "string name = 1;",
            "repeated string name = 1;",
            'changed cardinality from "optional with implicit presence" to "repeated"',
        ),
        (
            "optional float part",
            "float part",
            'from "optional with explicit presence" to "optional with implicit presence"',
        ),
        (
            "string name = 1;",
            "optional string name = 1;",
            'from "optional with implicit presence" to "optional with explicit presence"',
        ),
        (
            "string name = 1;",
            'string name = 1 [json_name = "n"];',
            'changed option "json_name" from "name" to "n"',
        ),
        (
            "Kind kind = 6;",
            "Answer kind = 6;",
            'on message "Request" changed type from "enum" to "message"',
        ),
        (
            "    string id = 5;\n  }\n",
            "  }\n  string id = 5;\n",
            '"id" on message "Request" moved from inside to outside a oneof',
        ),
        ("    string id = 5;\n", "", 'field "5" with name "id" on message "Request" was deleted'),
        (
            "    int32 depth = 1;",
            "    int64 depth = 1;",
            'on message "Inner" changed type from "int32" to "int64"',
        ),
        ("  KIND_SOME = 1;\n", "", 'enum value "1" on enum "Kind" was deleted'),
        ("KIND_SOME = 1;", "KIND_SOME = 2;", 'enum value "1" on enum "Kind" was deleted'),
        (
            "KIND_SOME = 1;",
            "KIND_ANY = 1;",
            'on enum "Kind" changed name from "KIND_SOME" to "KIND_ANY"',
        ),
        ("  rpc Do(Request) returns (Answer);\n", "", 'RPC "Do" on service "Work" was deleted'),
        (
            "rpc Do(Request)",
            "rpc Do(Answer)",
            'changed request type from "cpcsam.v1.Request" to "cpcsam.v1.Answer"',
        ),
        (
            "returns (Answer)",
            "returns (Request)",
            'changed response type from "cpcsam.v1.Answer" to "cpcsam.v1.Request"',
        ),
        (
            "returns (Answer)",
            "returns (stream Answer)",
            "changed from server unary to server streaming",
        ),
        ("package cpcsam.v1;", "package cpcsam.v2;", 'package "cpcsam.v1" was deleted'),
        (
            "  reserved 8 to 9;\n",
            "  reserved 8;\n",
            '"[8,9]" on message "Request" is missing values: [9]',
        ),
        ('  reserved "old";\n', "", 'reserved name "old" on message "Request" was deleted'),
    ],
)
def test_breaking_change_is_listed(old: str, new: str, change: str, tmp_path: Path) -> None:
    released = written(tmp_path / "released", RELEASED)
    current = written(tmp_path / "current", edited(old, new))
    changes = breaking_changes(released, current)
    assert any(change in line for line in changes), changes


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("string name = 1;", "string name = 1;\n  string more = 10;"),
        ("    string id = 5;\n", "    string id = 5;\n    string url = 10;\n"),
        ("  KIND_SOME = 1;\n", "  KIND_SOME = 1;\n  KIND_ALL = 2;\n"),
        ("message Answer {}", "message Answer {\n  Kind kind = 1;\n}\n\nmessage Other {}"),
        ("returns (Answer);\n", "returns (Answer);\n  rpc Ask(stream Request) returns (Answer);\n"),
        ("  string name = 1;\n", "  // A comment.\n  string name = 1;\n"),
        ("reserved 8 to 9;", "reserved 8 to 12;"),
    ],
)
def test_compatible_change_is_not_listed(old: str, new: str, tmp_path: Path) -> None:
    released = written(tmp_path / "released", RELEASED)
    current = written(tmp_path / "current", edited(old, new))
    assert breaking_changes(released, current) == []


def test_moving_a_definition_to_another_file_is_compatible(tmp_path: Path) -> None:
    released, current = written(tmp_path / "released", RELEASED), tmp_path / "current"
    moved = 'syntax = "proto3";\npackage cpcsam.v1;\nmessage Answer {}\n'
    kept = edited("message Answer {}\n", "").replace(
        "package cpcsam.v1;", 'package cpcsam.v1;\nimport "cpcsam/v1/answer.proto";'
    )
    written(written(current, kept), moved, "answer.proto")
    assert breaking_changes(released, current) == []


def test_command_prints_breaking_changes_and_exits_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    released = str(written(tmp_path / "released", RELEASED))
    current = str(written(tmp_path / "current", edited("string name = 1;", "bytes label = 1;")))
    assert main([released, released]) == 0 and capsys.readouterr().out == ""
    assert main([released, current]) == 1
    lines = capsys.readouterr().out.splitlines()
    for change in ('name from "name" to "label"', 'type from "string" to "bytes"'):
        assert any(change in line for line in lines), lines


@pytest.mark.parametrize("text", [None, "message {"])
def test_command_without_a_valid_api_prints_one_line_and_exits_2(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        written(tmp_path, text)
    assert main([str(tmp_path), str(ROOT)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "expected" in error


def test_fields_of_the_listed_files_gain_presence_and_nothing_else(tmp_path: Path) -> None:
    (name,) = (Path(path).name for path in GAINED_PRESENCE)
    released = written(tmp_path / "old", RELEASED, name)
    optional = edited("string name = 1;", "optional string name = 1;")
    assert breaking_changes(released, written(tmp_path / "new", optional, name)) == []
    repeated = edited("string name = 1;", "repeated string name = 1;")
    (change,) = breaking_changes(released, written(tmp_path / "more", repeated, name))
    assert 'from "optional with implicit presence" to "repeated"' in change
