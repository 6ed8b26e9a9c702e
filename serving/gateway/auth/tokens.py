"""Access tokens and the file that holds their digests.

A line of the file: TENANT ROLE SHA256; the rest of it after # is a comment.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.errors import ConfigError

__all__ = ["EDITOR", "TENANT", "USER", "Token", "digest_of", "read_tokens", "write_tokens"]

PROG: Final = "python -m serving.tokens"
USER: Final = "user"
EDITOR: Final = "editor"
TENANT: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Token:
    """Entry of the token file.

    Attributes:
        tenant: owner of the token.
        role: USER or EDITOR.
        digest: SHA-256 of the token, in hexadecimal.
    """

    tenant: str
    role: str
    digest: str


def digest_of(token: str) -> str:
    """SHA-256 of a token, in hexadecimal, as the file holds it."""
    return hashlib.sha256(token.encode()).hexdigest()


def read_tokens(path: Path, *, may_be_empty: bool = False) -> dict[str, Token]:
    """Read a file of tokens.

    Args:
        path: the file.
        may_be_empty: accept a file without a token, with which a gateway would admit nobody. An
            interrupted write or a failed mount leaves such files.

    Returns:
        The tokens by their digest.

    Raises:
        ConfigError: the file cannot be read, has no token, or a line is not a token.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError.of(
            str(path),
            got=getattr(error, "strerror", None) or "no text",
            expected="a file of tokens",
            fix=f"make it with: {PROG} add --file {path} --tenant NAME",
        ) from error
    tokens = [
        _token(line, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.partition("#")[0].strip()
    ]
    if not tokens and not may_be_empty:
        raise ConfigError.of(
            str(path),
            got="no token",
            expected="one at least",
            fix=f"add one with: {PROG} add --file {path} --tenant NAME",
        )
    return {token.digest: token for token in tokens}


def _token(line: str, where: str) -> Token:
    fields = line.partition("#")[0].split()
    if (
        len(fields) != 3
        or not TENANT.fullmatch(fields[0])
        or fields[1] not in (USER, EDITOR)
        or not DIGEST.fullmatch(fields[2])
    ):
        # The message omits the line itself: it may be a token in plain text.
        raise ConfigError.of(
            where,
            got="something else",
            expected=f"TENANT, {USER} or {EDITOR}, and 64 hexadecimal digits",
            fix=f"add tokens with: {PROG} add",
        )
    return Token(*fields)


def write_tokens(path: Path, tokens: Sequence[Token], kept: Sequence[str] = ()) -> None:
    """Write a file of tokens, atomically.

    Args:
        path: of the file.
        tokens: to write.
        kept: lines of an earlier file that stay before them as they are, with their comments.
    """
    lines = [f"{token.tenant} {token.role} {token.digest}" for token in tokens]
    write_atomic(path, "".join(f"{line}\n" for line in (*kept, *lines)).encode())
