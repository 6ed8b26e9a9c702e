"""Authentication of callers by bearer token."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from time import monotonic
from typing import Final

from cpcsam.errors import ConfigError
from cpcsam.grpc_errors import AuthenticationError
from serving.gateway.auth.principal import EVERYBODY, Principal
from serving.gateway.auth.tokens import EDITOR, Token, digest_of, read_tokens

__all__ = ["Authenticator", "Metadata"]

LOG = logging.getLogger(__name__)
HEADER: Final = "authorization"
SCHEME: Final = "bearer "
REREAD_S: Final = 1.0

Metadata = Iterable[tuple[str, str | bytes]]


class Authenticator:
    """Knows the callers by the file of tokens, and heeds its changes.

    Args:
        path: the file; None lets everybody in as one tenant that may do everything.

    Raises:
        ConfigError: the file cannot be used.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._tokens: dict[str, Token] = {} if path is None else read_tokens(path)
        self._state = self._file_state()
        self._looked = monotonic()

    @property
    def requires_tokens(self) -> bool:
        """Whether callers have to say who they are."""
        return self._path is not None

    def authenticate(self, metadata: Metadata | None) -> Principal:
        """Who sent a request, by its metadata.

        Raises:
            AuthenticationError: no token, or none of the file.
        """
        if self._path is None:
            return EVERYBODY
        self._reread()
        header = next((value for name, value in metadata or () if name == HEADER), "")
        text = header.decode(errors="replace") if isinstance(header, bytes) else header
        known = None
        if text[: len(SCHEME)].lower() == SCHEME:
            # Looked up by digest: what the time of the look-up tells is of no use to a guesser.
            known = self._tokens.get(digest_of(text[len(SCHEME) :].strip()))
        if known is None:
            raise AuthenticationError.of(
                HEADER,
                got="an unknown token" if text else "no token",
                expected="Bearer TOKEN",
                fix="ask the operator for a token",
            )
        return Principal(known.tenant, known.role == EDITOR)

    def _reread(self) -> None:
        assert self._path is not None
        if monotonic() - self._looked < REREAD_S:
            return
        self._looked = monotonic()
        if (state := self._file_state()) == self._state:
            return
        self._state = state
        try:
            self._tokens = read_tokens(self._path)
            LOG.info("%s: %d tokens", self._path, len(self._tokens))
        except ConfigError as error:
            LOG.error("the tokens stay as they were: %s", error)

    def _file_state(self) -> tuple[int, int, int] | None:
        try:
            state = self._path.stat() if self._path is not None else None
        except OSError:
            return None
        return None if state is None else (state.st_mtime_ns, state.st_size, state.st_ino)
