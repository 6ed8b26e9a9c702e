"""Check that the API is backward compatible with the last release, with `buf breaking`.

    python -m tools.proto_compatibility RELEASED CURRENT

Both are folders with .proto files below cpcsam/. Additions are allowed, and definitions may move
between the files of their package (category PACKAGE). Every change that breaks a client on the
wire, in JSON or in its source is printed on a line, and the exit code is 1. In the files of
`GAINED_PRESENCE`, fields may become `optional`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cpcsam.commands import parser_of, run_command
from cpcsam.errors import ConfigError

__all__ = ["breaking_changes", "main"]

PROG: Final = "tools.proto_compatibility"
BUF: Final = Path(sys.executable).with_name("buf")
GAINED_PRESENCE: Final = ("cpcsam/v1/classes.proto",)
"""AddClassRequest.tile_size, whose absence and 0 differ since the release: the same bytes and JSON,
another type in Go and Rust. To be emptied at the next release."""
CONFIG: Final = json.dumps(
    {
        "version": "v2",
        "modules": [{"path": ".", "includes": ["cpcsam"]}],
        "breaking": {
            "use": ["PACKAGE", "FIELD_WIRE_JSON_COMPATIBLE_CARDINALITY"],
            "ignore_only": {"FIELD_SAME_CARDINALITY": list(GAINED_PRESENCE)},
        },
    }
)
FOUND_CHANGES: Final = 100
"""Exit code of buf for breaking changes, and for files that do not compile."""


def breaking_changes(released: Path, current: Path) -> list[str]:
    """List the changes that break clients of `released`, a line each.

    Args:
        released: folder of the .proto files of the last release.
        current: folder of the .proto files to check.

    Raises:
        ConfigError: a folder has no .proto files, or they do not compile.
    """
    # buf takes a relative path within the working directory for a part of that directory's module.
    released, current = released.resolve(), current.resolve()
    for folder in (released, current):
        if not any(folder.glob("cpcsam/**/*.proto")):
            raise ConfigError.of(
                str(folder), got="no cpcsam/**/*.proto", expected="the API", fix="correct the path"
            )
        # `buf breaking` exits alike for breaking changes and for files that do not compile.
        done = _buf("build", str(folder), "--config", CONFIG)
        if done.returncode:
            raise ConfigError.of(
                str(folder),
                got=(done.stdout + done.stderr).partition("\n")[0],
                expected="files that compile",
                fix="correct them",
            )
    against = ("--against", str(released), "--against-config", CONFIG)
    done = _buf("breaking", str(current), "--config", CONFIG, *against)
    if done.returncode not in (0, FOUND_CHANGES):
        raise ConfigError.of(
            "buf breaking",
            got=done.stderr.partition("\n")[0],
            expected="a comparison",
            fix="run it by hand",
        )
    return done.stdout.splitlines()


def _buf(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BUF, *arguments], capture_output=True, text=True, check=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 if nothing breaks, 1 if something does, 2 after an error.
    """
    parser = parser_of(PROG, __doc__)
    for name in ("released", "current"):
        parser.add_argument(name, type=Path, help=f"folder of the {name} .proto files")
    return run_command(parser, _compare, argv)


def _compare(args: argparse.Namespace) -> int:
    changes = breaking_changes(args.released, args.current)
    for change in changes:
        print(change)
    return 1 if changes else 0


if __name__ == "__main__":
    sys.exit(main())
