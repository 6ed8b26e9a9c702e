"""Install annotation tools, each into an environment of its own, from lock files with hashes.

    python -m tools.annotators                  # all that tests/integration/annotators/*.lock pin
    python -m tools.annotators label-studio

They are neither imported nor required by the project: its tests run them as programs of others. An
environment stands in `.tools/NAME` of the checkout, or in $CPCSAM_TOOLS/NAME. One that was made
from the present lock file stays as it is. Label Studio's has an empty database, too, as its first
start would take a minute to make one.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cpcsam.commands import parser_of, run_command
from cpcsam.errors import ConfigError
from tools.install_locked import install_locked

__all__ = ["OFFLINE", "TOKEN", "environment_of", "install", "is_installed", "lock_files", "main"]

PROG: Final = "tools.annotators"
ROOT: Final = Path(__file__).resolve().parents[1]
LOCKS: Final = ROOT / "tests/integration/annotators"
STAMP: Final = "installed-from"
"""File in an environment with the SHA-256 of what it was made from."""
TOKEN: Final = "0123456789abcdef0123456789abcdef01234567"
"""Of the user of Label Studio's database, which serves tests alone."""
USER: Final = ("--username", "user@example.com", "--password", "correct-horse")
FIRST_RUNS: Final = {
    "label-studio": (
        *("bin/label-studio", "init", "empty", "--data-dir", "."),
        *(*USER, "--user-token", TOKEN, "--enable-legacy-api-token"),
    )
}
"""Commands of tools, with the environment as their folder, that make what their starts need."""
OFFLINE: Final = {
    "COLLECT_ANALYTICS": "false",
    "LATEST_VERSION_CHECK": "false",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
}
"""Settings of Label Studio with which it calls nobody."""


def lock_files(folder: Path = LOCKS) -> dict[str, Path]:
    """Return the lock files of a folder by the name of their tool."""
    return {path.stem: path for path in sorted(folder.glob("*.lock"))}


def environment_of(name: str) -> Path:
    """Return the folder of a tool's environment, whether it is there or not."""
    return Path(os.environ.get("CPCSAM_TOOLS") or ROOT / ".tools") / name


def is_installed(environment: Path, lock: Path) -> bool:
    """Tell whether an environment was made, completely, from the present lock file."""
    stamp = environment / STAMP
    return stamp.is_file() and stamp.read_text() == _digest(lock)


def install(lock: Path, environment: Path) -> None:
    """Make an environment with the packages of a lock file, in place of an earlier one.

    Args:
        lock: requirements with exact versions and hashes.
        environment: folder to make.

    Raises:
        ConfigError: pip could not install them, or the tool's first run failed.
    """
    shutil.rmtree(environment, ignore_errors=True)
    environment.parent.mkdir(parents=True, exist_ok=True)
    made = subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)])
    if made.returncode or install_locked(environment / "bin/python", lock):
        raise ConfigError.of(
            str(lock),
            got="a failure of pip",
            expected="requirements that can be installed",
            fix="see its output above",
        )
    if command := FIRST_RUNS.get(lock.stem):
        _run_first(command, environment)
    (environment / STAMP).write_text(_digest(lock))


def _run_first(command: Sequence[str], environment: Path) -> None:
    path = environment.absolute()
    settings = {**os.environ, "HOME": str(path), "LABEL_STUDIO_BASE_DATA_DIR": str(path), **OFFLINE}
    settings.pop("PYTHONPATH", None)
    with (path / "first-run.log").open("w") as log:
        done = subprocess.run(
            [str(path / command[0]), *command[1:]],
            env=settings,
            cwd=path,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    if done.returncode:
        raise ConfigError.of(
            " ".join(command[:2]),
            got=f"exit status {done.returncode}",
            expected="0",
            fix=f"see {log.name}",
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = parser_of(PROG, __doc__)
    text = f"tools to install ({', '.join(lock_files())})"
    parser.add_argument("names", nargs="*", metavar="NAME", help=text)
    return run_command(parser, _install_all, argv)


def _install_all(args: argparse.Namespace) -> None:
    locks = lock_files()
    names = list(dict.fromkeys(args.names)) or list(locks)
    for name in names:
        if name not in locks:
            raise ConfigError.of(
                "name", got=repr(name), expected=" or ".join(locks), fix="choose one of these"
            )
    for name in names:
        environment = environment_of(name)
        if is_installed(environment, locks[name]):
            print(f"{name}: installed in {environment}")
            continue
        print(f"{name}: installing into {environment}", flush=True)
        install(locks[name], environment)


def _digest(lock: Path) -> str:
    first_run = "\0".join(FIRST_RUNS.get(lock.stem, ()))
    return hashlib.sha256(lock.read_bytes() + first_run.encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
