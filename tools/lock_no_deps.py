"""Pin the wheels that are installed without their requirements, with their SHA-256.

    python -m tools.lock_no_deps requirements-no-deps.in requirements-no-deps.lock

pip-compile always follows requirements, so it cannot write this file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["lock_lines", "main"]

HEADER = "# Written by `make lock` from requirements-no-deps.in; install with --no-deps.\n"


def lock_lines(report: Mapping[str, Any]) -> str:
    """Requirements lines, sorted by name, from pip's installation report.

    Args:
        report: what `pip install --dry-run --report -` prints, parsed.
    """
    pins = []
    for item in report["install"]:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
        pins.append(f"{name}=={version} \\\n    --hash=sha256:{digest}\n")
    return "".join(sorted(pins))


def main(argv: Sequence[str] | None = None) -> int:
    """Resolve the given requirements file and write its lock; return pip's exit code."""
    parser = argparse.ArgumentParser(description="Pin wheels installed without requirements.")
    parser.add_argument("source", type=Path, help="requirements with exact versions")
    parser.add_argument("lock", type=Path, help="the file to write")
    options = parser.parse_args(argv)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps"]
    command += ["--ignore-installed", "--only-binary=:all:", "--report", "-"]
    resolved = subprocess.run(
        [*command, "-r", str(options.source)], stdout=subprocess.PIPE, text=True, check=False
    )
    if resolved.returncode == 0:
        options.lock.write_text(HEADER + lock_lines(json.loads(resolved.stdout)))
    return resolved.returncode


if __name__ == "__main__":
    sys.exit(main())
