"""Who calls, by bearer token, and what they may do."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

import grpc

from cpcsam.errors import ConfigError
from cpcsam.grpc_errors import AuthenticationError, ForbiddenError
from serving.gateway.auth.tokens import EDITOR, Token, digest_of, read_tokens
from serving.gateway.metrics import Metrics

__all__ = ["Access", "AccessInterceptor", "Caller"]

LOG = logging.getLogger(__name__)
HEADER: Final = "authorization"
SCHEME: Final = "bearer "
REREAD_S: Final = 1.0
OPEN_TO_ALL: Final = ("/grpc.health.v1.Health/",)
"""Probes of orchestrators carry no token, and learn nothing but that the gateway serves."""

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True)
class Caller:
    """Who calls.

    Attributes:
        tenant: whose images and classes it sees.
        may_edit: whether it may change the tenant's classes.
    """

    tenant: str
    may_edit: bool

    def require_edit(self) -> None:
        """Refuse whoever may not change classes.

        Raises:
            ForbiddenError: this caller may not.
        """
        if not self.may_edit:
            raise ForbiddenError.of(
                "token",
                got=f"one of {self.tenant} that may not change classes",
                expected=f"one with the role {EDITOR}",
                fix="ask the operator for such a token",
            )


EVERYBODY: Final = Caller(tenant="everybody", may_edit=True)
"""The caller where no tokens are asked for."""


class Access:
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
    def asks_for_tokens(self) -> bool:
        """Whether callers have to say who they are."""
        return self._path is not None

    def caller_of(self, metadata: Metadata | None) -> Caller:
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
        return Caller(known.tenant, known.role == EDITOR)

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


class AccessInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls without a valid token before their message is read; counts them."""

    def __init__(self, access: Access, metrics: Metrics) -> None:
        self._access = access
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Let the call through or answer UNAUTHENTICATED."""
        details = handler_call_details
        if not details.method.startswith(OPEN_TO_ALL):
            try:
                self._access.caller_of(details.invocation_metadata)
            except AuthenticationError as error:
                self._metrics.rejected.labels("unauthenticated").inc()
                return _refusal(str(error))
        return await continuation(details)


def _refusal(message: str) -> Any:
    async def refuse(_: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, message)

    # Of the four kinds of handlers, this one begins without having received the message.
    return grpc.stream_stream_rpc_method_handler(refuse)
