"""Command: the bearer tokens of the gateway's callers.

python -m serving.tokens add --file tokens.txt --tenant pathology
python -m serving.tokens add --file tokens.txt --tenant pathology --role editor
python -m serving.tokens list --file tokens.txt
python -m serving.tokens remove --file tokens.txt --id 3fb0a2c1

`add` prints a new token, once: the file holds only SHA-256 digests, so that a reader of it, or of a
backup, gains nothing. (Tokens are 256 random bits, which no slow hash could protect better.) A
running gateway applies a changed file within a second. A tenant may have several tokens; an editor
may also change the tenant's classes.

A line of the file: TENANT ROLE SHA256, the rest of it after # is a comment.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cpcsam.commands import parser_of, run_command
from cpcsam.errors import ConfigError
from serving.gateway.auth.tokens import (
    EDITOR,
    TENANT,
    USER,
    Token,
    digest_of,
    read_tokens,
    write_tokens,
)

__all__ = ["main"]

PROG: Final = "python -m serving.tokens"
ID_LENGTH: Final = 8


def _add(args: argparse.Namespace) -> None:
    if not TENANT.fullmatch(args.tenant):
        raise ConfigError.of(
            "--tenant",
            got=repr(args.tenant),
            expected="at most 63 of a-z, 0-9, '.', '_' and '-', a letter or digit first",
            fix="rename it",
        )
    kept: list[str] = []
    if args.file.exists():
        read_tokens(args.file, may_be_empty=True)  # refuses another file
        kept = args.file.read_text().splitlines()
    token = secrets.token_urlsafe(32)
    write_tokens(args.file, [Token(args.tenant, args.role, digest_of(token))], kept)
    print(token)


def _list(args: argparse.Namespace) -> None:
    for token in read_tokens(args.file, may_be_empty=True).values():
        print(f"{token.digest[:ID_LENGTH]}  {token.role:6}  {token.tenant}")


def _remove(args: argparse.Namespace) -> None:
    known = read_tokens(args.file)
    removed = [digest for digest in known if digest[:ID_LENGTH] == args.id]
    if not removed:
        raise ConfigError.of(
            "--id", got=args.id, expected="an id that `list` shows", fix="correct the option"
        )
    if len(removed) == len(known):
        raise ConfigError.of(
            "--id",
            got="the last token",
            expected="another that remains, for a gateway keeps its tokens if the file has none",
            fix="add a new token first; to lock everybody out, stop the gateway",
        )
    lines = args.file.read_text().splitlines()
    kept = [line for line in lines if not {*line.partition("#")[0].split()} & {*removed}]
    write_tokens(args.file, [], kept)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = parser_of(PROG, __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, run, text in (
        ("add", _add, "create a token, print it and add it to the file"),
        ("list", _list, "show id, role and tenant of every token"),
        ("remove", _remove, "revoke a token"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        command.add_argument("--file", type=Path, required=True, help="the file of tokens")
        if name == "add":
            command.add_argument("--tenant", required=True, metavar="NAME", help="its owner")
            command.add_argument("--role", choices=(USER, EDITOR), default=USER)
        if name == "remove":
            command.add_argument("--id", required=True, help="as `list` shows it")
    return run_command(parser, lambda args: args.run(args), argv)


if __name__ == "__main__":
    sys.exit(main())
