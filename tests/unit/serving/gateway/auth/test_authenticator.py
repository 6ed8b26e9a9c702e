"""Authentication by bearer token."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cpcsam.errors import ConfigError
from cpcsam.grpc_errors import AuthenticationError, ForbiddenError
from serving.gateway.auth import authenticator as authenticator_module
from serving.gateway.auth.authenticator import Authenticator, Principal
from serving.gateway.auth.tokens import EDITOR, USER, Token, digest_of, read_tokens, write_tokens


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
    file.write_text("broken\n")
    assert authenticator.authenticate(bearer(first)).tenant == "lab"
    os.remove(file)
    assert authenticator.authenticate(bearer(first)).tenant == "lab"
    make(file, "new")
    with pytest.raises(AuthenticationError):
        authenticator.authenticate(bearer(first))


def test_authenticator_with_a_missing_file_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="expected a file of tokens; make it with"):
        Authenticator(file)
