"""Each kind of edit to the API is told from those that may be made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tools.proto_compatibility import breaking_changes, compile_protos, main

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


def test_what_was_released_is_served() -> None:
    assert main([str(ROOT / "tools/released"), str(ROOT)]) == 0


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("  string name = 1;\n", "", "Request.name (1) is gone"),
        ("string name = 1;", "string name = 11;", "Request.name: number 1 is now 11"),
        ("string name = 1;", "string label = 1;", "Request.name (1) is now called label"),
        ("string name = 1;", "bytes name = 1;", "Request.name: type TYPE_STRING is now TYPE_BYTES"),
        (
            "string name = 1;",
            "repeated string name = 1;",
            "Request.name: cardinality LABEL_OPTIONAL is now LABEL_REPEATED",
        ),
        ("optional float part", "float part", "Request.part: presence optional is now plain"),
        ("string name = 1;", "optional string name = 1;", "presence plain is now optional"),
        (
            "string name = 1;",
            'string name = 1 [json_name = "n"];',
            "Request.name: JSON name name is now n",
        ),
        ("Kind kind = 6;", "Answer kind = 6;", "type .cpcsam.v1.Kind is now .cpcsam.v1.Answer"),
        ("    string id = 5;\n  }\n", "  }\n  string id = 5;\n", "id: oneof image is now none"),
        ("    string id = 5;\n", "", "Request.id (5) is gone"),
        ("    int32 depth = 1;", "    int64 depth = 1;", "Request.Inner.depth: type TYPE_INT32"),
        ("  KIND_SOME = 1;\n", "", "Kind.KIND_SOME (1) is gone"),
        ("KIND_SOME = 1;", "KIND_SOME = 2;", "Kind.KIND_SOME: number 1 is now 2"),
        ("KIND_SOME = 1;", "KIND_ANY = 1;", "Kind.KIND_SOME (1) is now called KIND_ANY"),
        ("  rpc Do(Request) returns (Answer);\n", "", "Work.Do is gone"),
        ("rpc Do(Request)", "rpc Do(Answer)", "Work.Do: request .cpcsam.v1.Request is now"),
        ("returns (Answer)", "returns (Request)", "Work.Do: answer .cpcsam.v1.Answer is now"),
        ("returns (Answer)", "returns (stream Answer)", "no stream is now a stream of answers"),
        ("package cpcsam.v1;", "package cpcsam.v2;", "cpcsam.v1.Request is gone"),
        ("  reserved 8 to 9;\n", "  reserved 8;\n", "the number 9 is no longer reserved"),
        ('  reserved "old";\n', "", "the name old is no longer reserved"),
    ],
)
def test_what_breaks_clients_is_told(old: str, new: str, told: str, tmp_path: Path) -> None:
    released = compile_protos(written(tmp_path / "released", RELEASED))
    current = compile_protos(written(tmp_path / "current", edited(old, new)))
    changes = breaking_changes(released, current)
    assert any(told in line for line in changes), changes


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("string name = 1;", "string name = 1;\n  string more = 10;"),
        ("    string id = 5;\n", "    string id = 5;\n    string url = 10;\n"),
        ("  KIND_SOME = 1;\n", "  KIND_SOME = 1;\n  KIND_ALL = 2;\n"),
        ("message Answer {}", "message Answer {\n  Kind kind = 1;\n}\n\nmessage Other {}"),
        ("returns (Answer);\n", "returns (Answer);\n  rpc Ask(stream Request) returns (Answer);\n"),
        ("  string name = 1;\n", "  // Who asks.\n  string name = 1;\n"),
        ("reserved 8 to 9;", "reserved 8 to 12;"),
    ],
)
def test_what_may_be_done_is_not(old: str, new: str, tmp_path: Path) -> None:
    released = compile_protos(written(tmp_path / "released", RELEASED))
    current = compile_protos(written(tmp_path / "current", edited(old, new)))
    assert breaking_changes(released, current) == []


def test_definitions_may_move_to_another_file(tmp_path: Path) -> None:
    released, current = written(tmp_path / "released", RELEASED), tmp_path / "current"
    moved = 'syntax = "proto3";\npackage cpcsam.v1;\nmessage Answer {}\n'
    kept = edited("message Answer {}\n", "").replace(
        "package cpcsam.v1;", 'package cpcsam.v1;\nimport "cpcsam/v1/answer.proto";'
    )
    written(written(current, kept), moved, "answer.proto")
    assert breaking_changes(compile_protos(released), compile_protos(current)) == []


def test_the_command_tells_all_that_breaks_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    released = str(written(tmp_path / "released", RELEASED))
    current = str(written(tmp_path / "current", edited("string name = 1;", "bytes label = 1;")))
    assert main([released, released]) == 0 and capsys.readouterr().out == ""
    assert main([released, current]) == 1
    assert capsys.readouterr().out == "cpcsam.v1.Request.name (1) is now called label\n"


@pytest.mark.parametrize("text", [None, "message {"])
def test_what_is_no_api_is_one_line(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        written(tmp_path, text)
    assert main([str(tmp_path), str(ROOT)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "expected" in told
