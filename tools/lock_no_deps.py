"""Pin the wheels that are installed without their dependencies, with their SHA-256.

    python -m tools.lock_no_deps requirements-no-deps.in requirements-no-deps.lock

pip-compile always follows dependencies, so it cannot write this file. A wheel that differs between
the supported Python versions gets the hash of each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cpcsam.commands import parser_of, run_command
from cpcsam.errors import ConfigError
from tools.preflight import PYTHON_VERSIONS

__all__ = ["lock_lines", "main"]

PROG: Final = "tools.lock_no_deps"
HEADER: Final = "# Written by `make lock` from requirements-no-deps.in; install with --no-deps.\n"


def lock_lines(reports: Iterable[Mapping[str, Any]]) -> str:
    """Format requirement lines, sorted by name, from pip's installation reports.

    Args:
        reports: parsed outputs of `pip install --dry-run --report -`, one per Python version.
    """
    hashes: dict[str, set[str]] = {}
    for report in reports:
        for item in report["install"]:
            pin = f"{item['metadata']['name']}=={item['metadata']['version']}"
            digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
            hashes.setdefault(pin, set()).add(f"    --hash=sha256:{digest}")
    return "".join(" \\\n".join([pin, *sorted(hashes[pin])]) + "\n" for pin in sorted(hashes))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("source", type=Path, help="requirements with exact versions")
    parser.add_argument("lock", type=Path, help="the file to write")
    return run_command(parser, _lock, argv)


def _lock(args: argparse.Namespace) -> None:
    versions = [".".join(map(str, version)) for version in PYTHON_VERSIONS]
    lines = lock_lines([_resolve(args.source, version) for version in versions])
    args.lock.write_text(HEADER + lines)


def _resolve(source: Path, python_version: str) -> Mapping[str, Any]:
    """Return pip's installation report for a Python version on this platform."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps"]
    command += ["--ignore-installed", "--only-binary=:all:", "--report", "-"]
    with tempfile.TemporaryDirectory() as target:  # pip insists on one for another version
        command += ["--python-version", python_version, "--target", target, "-r", str(source)]
        resolved = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if resolved.returncode != 0:
        raise ConfigError.of(
            str(source),
            got=f"a failure of pip for Python {python_version}",
            expected="requirements that pip can resolve",
            fix="see its output above",
        )
    report: Mapping[str, Any] = json.loads(resolved.stdout)
    return report


if __name__ == "__main__":
    sys.exit(main())
