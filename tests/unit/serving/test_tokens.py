"""Command that manages the callers' tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.gateway.auth.tokens import Token, digest_of, read_tokens
from serving.tokens import main


def make(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["add", "--file", str(path), *options]) == 0
    return capsys.readouterr().out.strip()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.txt"


def test_token_file_after_add_holds_only_digests(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = [make(file, capsys, "--tenant", "lab"), make(file, capsys, "--tenant", "lab")]
    assert len(set(tokens)) == 2 and all(len(token) >= 40 for token in tokens)
    assert not any(token in file.read_text() for token in tokens)
    assert read_tokens(file) == {
        digest_of(token): Token("lab", "user", digest_of(token)) for token in tokens
    }


def test_tokens_command_lists_and_removes_by_id(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(file, capsys, "--tenant", "lab")
    token = make(file, capsys, "--tenant", "ward", "--role", "editor")
    assert main(["list", "--file", str(file)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[1:] for line in lines] == [["user", "lab"], ["editor", "ward"]]
    assert main(["remove", "--file", str(file), "--id", lines[1][0]]) == 0
    assert digest_of(token) not in read_tokens(file) and len(read_tokens(file)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["list", "--file", "{}"], "expected a file of tokens"),
        (["remove", "--file", "{}", "--id", "x"], "expected a file of tokens"),
        (["add", "--file", "{}", "--tenant", "Lab/.."], "--tenant: got 'Lab/..'"),
    ],
)
def test_tokens_command_with_a_mistake_prints_one_line(
    file: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word.format(file) for word in options]) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1
