"""Authentication by bearer token, the token file and the command that manages it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cpcsam.errors import ConfigError
from cpcsam.grpc_errors import AuthenticationError, ForbiddenError
from serving.gateway.auth import authenticator as authenticator_module
from serving.gateway.auth.authenticator import Authenticator, Principal
from serving.gateway.auth.tokens import EDITOR, USER, Token, digest_of, read_tokens, write_tokens
from serving.tokens import main


def make(path: Path, tenant: str, role: str = USER) -> str:
    """Add a token to the file and return it."""
    token = f"token of {tenant}, {role}"
    known = read_tokens(path).values() if path.exists() else ()
    write_tokens(path, [*known, Token(tenant, role, digest_of(token))])
    return token


def bearer(token: str) -> list[tuple[str, str]]:
    return [("user-agent", "x"), ("authorization", f"Bearer {token}")]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.txt"


def test_authenticate_with_a_known_token_returns_its_principal(file: Path) -> None:
    user = make(file, "lab")
    editor = make(file, "ward", EDITOR)
    authenticator = Authenticator(file)
    assert authenticator.requires_tokens
    assert authenticator.authenticate(bearer(user)) == Principal("lab", may_edit=False)
    assert authenticator.authenticate(bearer(editor)) == Principal("ward", may_edit=True)
    assert authenticator.authenticate([("authorization", f"bearer  {user} ")]).tenant == "lab"
    authenticator.authenticate(bearer(editor)).require_edit()
    with pytest.raises(ForbiddenError, match="a token of lab that may not change classes"):
        authenticator.authenticate(bearer(user)).require_edit()


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        [],
        [("user-agent", "x")],
        bearer("guess"),
        bearer(""),
        [("authorization", "Basic bGFiOmxhYg==")],
        [("authorization", b"Bearer \xff")],
    ],
)
def test_authenticate_without_a_known_token_is_refused(
    file: Path, metadata: list[tuple[str, str | bytes]] | None
) -> None:
    make(file, "lab")
    with pytest.raises(AuthenticationError, match="authorization: got") as caught:
        Authenticator(file).authenticate(metadata)
    assert "guess" not in str(caught.value)


def test_authenticate_with_a_digest_is_refused(file: Path) -> None:
    digest = digest_of(make(file, "lab"))
    with pytest.raises(AuthenticationError):
        Authenticator(file).authenticate(bearer(digest))


def test_authenticate_without_a_token_file_allows_everything() -> None:
    principal = Authenticator(None).authenticate(None)
    assert principal.may_edit and not Authenticator(None).requires_tokens


def test_authenticate_after_a_file_change_applies_it_unless_invalid(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authenticator_module, "CHECK_PERIOD_S", 0)
    first = make(file, "lab")
    authenticator = Authenticator(file)
    second = make(file, "ward")
    assert authenticator.authenticate(bearer(second)).tenant == "ward"
    for broken in ("broken\n", "", "# no token\n"):
        file.write_text(broken)
        assert authenticator.authenticate(bearer(first)).tenant == "lab"
        assert authenticator.is_file_refused()
    os.remove(file)
    assert authenticator.is_file_refused()
    assert authenticator.authenticate(bearer(first)).tenant == "lab"
    make(file, "new")
    assert not authenticator.is_file_refused()
    with pytest.raises(AuthenticationError):
        authenticator.authenticate(bearer(first))


def test_authenticator_with_a_missing_file_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="expected a file of tokens; make it with"):
        Authenticator(file)


@pytest.mark.parametrize("text", ["", "\n", "# no token\n"])
def test_authenticator_with_a_file_without_tokens_is_refused(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match="got no token, expected one at least; add one with"):
        Authenticator(file)
    assert make_by_command(file)
    assert Authenticator(file).requires_tokens


def make_by_command(file: Path) -> bool:
    return main(["add", "--file", str(file), "--tenant", "lab"]) == 0


def test_read_tokens_skips_comments_and_empty_lines(file: Path) -> None:
    file.write_text(f"# callers\n\nlab editor {'0' * 64}  # Ada\n")
    assert read_tokens(file) == {"0" * 64: Token("lab", EDITOR, "0" * 64)}


@pytest.mark.parametrize(
    "line",
    ["a-token-in-plain-text", f"lab owner {'0' * 64}", f"../lab user {'0' * 64}", "lab user 12"],
)
def test_read_tokens_with_an_invalid_line_names_its_number_and_hides_it(
    file: Path, line: str
) -> None:
    file.write_text(f"# callers\n{line}\n")
    with pytest.raises(ConfigError, match="tokens.txt, line 2: got something else") as caught:
        read_tokens(file)
    assert line.split()[0] not in str(caught.value)


def add_token(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["add", "--file", str(path), *options]) == 0
    return capsys.readouterr().out.strip()


def test_token_file_after_add_holds_only_digests(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = [
        add_token(file, capsys, "--tenant", "lab"),
        add_token(file, capsys, "--tenant", "lab"),
    ]
    assert len(set(tokens)) == 2 and all(len(token) >= 40 for token in tokens)
    assert not any(token in file.read_text() for token in tokens)
    assert read_tokens(file) == {
        digest_of(token): Token("lab", "user", digest_of(token)) for token in tokens
    }


def test_tokens_command_lists_and_removes_by_id(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_token(file, capsys, "--tenant", "lab")
    token = add_token(file, capsys, "--tenant", "ward", "--role", "editor")
    assert main(["list", "--file", str(file)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[1:] for line in lines] == [["user", "lab"], ["editor", "ward"]]
    assert main(["remove", "--file", str(file), "--id", lines[1][0]]) == 0
    assert digest_of(token) not in read_tokens(file) and len(read_tokens(file)) == 1
    assert main(["remove", "--file", str(file), "--id", lines[0][0]]) == 2
    assert "--id: got the last token" in capsys.readouterr().err and len(read_tokens(file)) == 1


def test_tokens_command_keeps_comments(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_token(file, capsys, "--tenant", "lab")
    noted = f"# issued by Bob\n{file.read_text().strip()}  # Alice's laptop"
    file.write_text(noted)
    token = add_token(file, capsys, "--tenant", "ward")
    assert file.read_text() == f"{noted}\nward user {digest_of(token)}\n"
    assert main(["remove", "--file", str(file), "--id", digest_of(token)[:8]]) == 0
    assert file.read_text() == f"{noted}\n"


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
