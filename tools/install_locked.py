"""Install what a lock file pins, with hashes: by uv, and by pip where uv fails.

    .venv/bin/python -m tools.install_locked requirements.lock
    .venv/bin/python -m tools.install_locked --no-deps requirements-no-deps.lock

uv links what it has unpacked once into every environment, which takes a fifth of pip's time at
first and seconds later. It gets the settings of pip, such as a mirror's address, and what the
environment says of its own (`UV_…`). The first call installs uv as requirements.lock pins it. Runs
in a new environment, so it only needs the standard library.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

__all__ = ["cache_settings", "install_locked", "main", "pip_settings", "uv_settings"]

LOCK: Final = Path(__file__).resolve().parents[1] / "requirements.lock"
SECTIONS: Final = ("global", "install", ":env:")
"""Of pip's configuration, each stronger than those before it."""
TRUE: Final = ("1", "on", "true", "y", "yes")
SETTINGS: Final = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "timeout": "UV_HTTP_TIMEOUT",
}
"""Variables of uv by pip's names of the same settings."""


def pip_settings(listed: str) -> dict[str, str]:
    """Read the output of `pip config list`: what holds for `pip install`, by name."""
    lines = [line.partition("=") for line in listed.splitlines()]
    return {
        name.removeprefix(f"{section}."): str(ast.literal_eval(value))
        for section in SECTIONS
        for name, _, value in lines
        if name.startswith(f"{section}.")
    }


def uv_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """Translate pip's settings into environment variables of uv.

    A package may come from any index, as with pip, since its hash decides.
    """
    values = {
        variable: ("," if name == "find-links" else " ").join(settings[name].split())
        for name, variable in SETTINGS.items()
        if name in settings
    }
    return {"UV_INDEX_STRATEGY": "unsafe-best-match", **values}


def cache_settings(python: Path) -> dict[str, str]:
    """Choose a cache from which uv can link files into an environment, instead of copying them.

    Links do not lead from one file system to another: where the usual cache lies on another one
    than the environment, `.tools/uv` of the checkout is taken.

    Args:
        python: the environment's interpreter.
    """
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    present = next(folder for folder in (usual, *usual.absolute().parents) if folder.exists())
    if present.stat().st_dev == python.parent.stat().st_dev:
        return {}
    return {"UV_CACHE_DIR": str(LOCK.parent / ".tools/uv")}


def install_locked(python: Path, lock: Path, *options: str) -> int:
    """Install the packages of a lock file into an environment.

    Args:
        python: the environment's interpreter; it need not have pip.
        lock: requirements with exact versions and hashes.
        options: further ones of uv and pip alike, such as `--no-deps`.

    Returns:
        0, or the exit code of pip, which has told why.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    words = ["install", "--quiet", *options, "--require-hashes", "--requirement", str(lock)]
    if find_spec("uv") or _install_uv(pip):
        listed = subprocess.run([*pip, "config", "list"], capture_output=True, text=True).stdout
        settings = pip_settings(listed)
        uv = [sys.executable, "-m", "uv", "pip", *words, "--python", str(python)]
        if settings.get("no-index", "no").lower() in TRUE:
            uv.append("--no-index")
        environment = uv_settings(settings) | cache_settings(python) | os.environ
        if subprocess.run(uv, env=environment).returncode == 0:
            return 0
        print(f"uv could not install {lock}; pip tries", file=sys.stderr, flush=True)
    return subprocess.run([*pip, "--python", str(python), *words]).returncode


def main(argv: Sequence[str] | None = None) -> int:
    """Install into the environment that runs this, and return the exit code."""
    parser = argparse.ArgumentParser(description="Install what lock files pin.")
    parser.add_argument("locks", nargs="+", type=Path, metavar="LOCK")
    parser.add_argument("--no-deps", action="store_true", help="not what the packages require")
    args = parser.parse_args(argv)
    options = ("--no-deps",) if args.no_deps else ()
    codes = (install_locked(Path(sys.executable), lock, *options) for lock in args.locks)
    return next(filter(None, codes), 0)


def _install_uv(pip: Sequence[str]) -> bool:
    """Install uv with its hashes from the project's lock file; tell whether it is there now."""
    pinned = re.search(r"^uv==(?:.*\\\n)*.*\n", LOCK.read_text(), re.MULTILINE)
    if pinned is None:
        return False
    with tempfile.NamedTemporaryFile("w", suffix=".lock") as lock:
        lock.write(pinned[0])
        lock.flush()
        words = ["install", "--quiet", "--require-hashes", "--requirement", lock.name]
        return subprocess.run([*pip, *words]).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
