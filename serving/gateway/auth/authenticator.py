"""Authentication of callers by bearer token."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from cpcsam.errors import ConfigError
from cpcsam.grpc_errors import AuthenticationError, ForbiddenError
from serving.gateway.auth.tokens import EDITOR, Token, digest_of, read_tokens

__all__ = ["EVERYBODY", "Authenticator", "Metadata", "Principal"]


@dataclass(frozen=True)
class Principal:
    """Authenticated caller.

    Attributes:
        tenant: namespace of the images and classes that it sees.
        may_edit: whether it may change the tenant's classes.
    """

    tenant: str
    may_edit: bool

    def require_edit(self) -> None:
        """Require the permission to change classes.

        Raises:
            ForbiddenError: the principal lacks it.
        """
        if not self.may_edit:
            raise ForbiddenError.of(
                "token",
                got=f"a token of {self.tenant} that may not change classes",
                expected=f"a token with the role {EDITOR}",
                fix="request such a token from the operator",
            )


EVERYBODY: Final = Principal(tenant="everybody", may_edit=True)
"""Principal of every caller if the gateway requires no tokens."""


LOG = logging.getLogger(__name__)
HEADER: Final = "authorization"
SCHEME: Final = "bearer "
CHECK_PERIOD_S: Final = 1.0

Metadata = Iterable[tuple[str, str | bytes]]


class Authenticator:
    """Authenticates callers against a file of tokens, which is read again when it changes.

    While a changed file cannot be used, or holds no token, the tokens before it apply.

    Args:
        path: the file; None admits every caller as a single tenant with all permissions.

    Raises:
        ConfigError: the file cannot be used.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._tokens: dict[str, Token] = {} if path is None else read_tokens(path)
        self._state = self._file_state()
        self._checked = monotonic()
        self._is_file_refused = False

    def is_file_refused(self) -> bool:
        """Return whether the file cannot be used at present, so that older tokens apply."""
        if self._path is not None:
            self._reload_if_changed()
        return self._is_file_refused

    @property
    def requires_tokens(self) -> bool:
        """True if callers need a token."""
        return self._path is not None

    def authenticate(self, metadata: Metadata | None) -> Principal:
        """Return the principal of the bearer token in a request's metadata.

        Raises:
            AuthenticationError: no token, or an unknown token.
        """
        if self._path is None:
            return EVERYBODY
        self._reload_if_changed()
        header = next((value for name, value in metadata or () if name == HEADER), "")
        text = header.decode(errors="replace") if isinstance(header, bytes) else header
        token = None
        if text[: len(SCHEME)].lower() == SCHEME:
            # Looked up by digest: the duration of the lookup leaks nothing about a token.
            token = self._tokens.get(digest_of(text[len(SCHEME) :].strip()))
        if token is None:
            raise AuthenticationError.of(
                HEADER,
                got="an unknown token" if text else "no token",
                expected="Bearer TOKEN",
                fix="request a token from the operator",
            )
        return Principal(token.tenant, token.role == EDITOR)

    def _reload_if_changed(self) -> None:
        assert self._path is not None
        if monotonic() - self._checked < CHECK_PERIOD_S:
            return
        self._checked = monotonic()
        if (state := self._file_state()) == self._state:
            return
        self._state = state
        try:
            self._tokens = read_tokens(self._path)
            self._is_file_refused = False
            LOG.info("%s: %d tokens", self._path, len(self._tokens))
        except ConfigError as error:
            self._is_file_refused = True
            LOG.error("keeping the previous tokens: %s", error)

    def _file_state(self) -> tuple[int, int, int] | None:
        try:
            state = self._path.stat() if self._path is not None else None
        except OSError:
            return None
        return None if state is None else (state.st_mtime_ns, state.st_size, state.st_ino)
