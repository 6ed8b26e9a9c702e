"""Software bill of materials, and known vulnerabilities of the locked packages.

commands:
  sbom    write the installed packages and the page's vendored scripts as CycloneDX
  audit   look up the locks' packages in the vulnerability database of the package index

Examples:
  python -m tools.supply_chain sbom --out build/sbom.cdx.json
  python -m tools.supply_chain audit

`audit` exits with 1 if a package has a known vulnerability. Where the database cannot be reached,
it says that nothing was looked up, and exits with 0 unless --required is given.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.commands import ArgumentParser, parser_of, run_command
from cpcsam.errors import ArtifactError
from tools.licences import LOCKS, VENDORED

__all__ = ["main", "with_vendored"]

PROG: Final = "python -m tools.supply_chain"
TIMEOUT_S: Final = "10"


def with_vendored(document: dict[str, Any], vendored: dict[str, Any]) -> dict[str, Any]:
    """Add vendored scripts to a CycloneDX document.

    Args:
        document: of the packages.
        vendored: the manifest of the page's scripts.
    """
    added = []
    for folder, entry in vendored.items():
        name, _, version = folder.rpartition("-")
        added.append(
            {
                "type": "library",
                "bom-ref": f"pkg:npm/{name}@{version}",
                "purl": f"pkg:npm/{name}@{version}",
                "name": name,
                "version": version,
                "licenses": [{"license": {"id": entry["licence"]}}],
                "components": [
                    {
                        "type": "file",
                        "name": f"{folder}/{file}",
                        "hashes": [{"alg": "SHA-256", "content": digest}],
                    }
                    for file, digest in entry["sha256"].items()
                ],
            }
        )
    return {**document, "components": [*document.get("components", []), *added]}


def _sbom(args: argparse.Namespace) -> int:
    # Its validation of a document that it has built itself takes most of a minute.
    command = [
        *(sys.executable, "-m", "cyclonedx_py", "environment", "--no-validate"),
        *("--output-reproducible", "--pyproject", "pyproject.toml", args.python),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ArtifactError.of(
            "cyclonedx-bom", got=done.stderr.strip(), expected="a document", fix="run make"
        )
    vendored = json.loads(VENDORED.read_text(encoding="utf-8"))
    document = with_vendored(json.loads(done.stdout), vendored)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(args.out, (json.dumps(document, indent=1) + "\n").encode())
    print(f"wrote {args.out}: {len(document['components'])} components")
    return 0


def _audit(args: argparse.Namespace) -> int:
    locks = [word for lock in LOCKS for word in ("--requirement", str(lock))]
    command = [
        *(sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--format", "json"),
        *("--progress-spinner", "off", "--timeout", TIMEOUT_S, *locks),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # pip-audit is content with an index that knows no package, and exits with 1 if it reaches none.
    try:
        found = json.loads(done.stdout)["dependencies"]
    except ValueError:
        found = []
    audited = [one for one in found if "vulns" in one]
    for package in audited:
        for fault in package["vulns"]:
            fixes = ", ".join(fault["fix_versions"]) or "no release yet"
            print(f"{package['name']} {package['version']}: {fault['id']}; fixed in {fixes}")
    print(f"audit: {len(audited)} packages looked up, {len(found) - len(audited)} not known there")
    if not audited:
        print("audit: skipped, as the vulnerability database cannot be reached")
        return int(args.required)
    return int(any(package["vulns"] for package in audited))


def _parser() -> ArgumentParser:
    parser = parser_of(PROG, __doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sbom = commands.add_parser("sbom", prog=f"{PROG} sbom")
    out = Path("build/sbom.cdx.json")
    sbom.add_argument("--out", type=Path, default=out, metavar="FILE", help="(%(default)s)")
    text = "interpreter of the environment (this one)"
    sbom.add_argument("--python", default=sys.executable, metavar="FILE", help=text)
    sbom.set_defaults(work=_sbom)
    audit = commands.add_parser("audit", prog=f"{PROG} audit")
    text = "fail where the database cannot be reached"
    audit.add_argument("--required", action="store_true", help=text)
    audit.set_defaults(work=_audit)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 without findings, 1 with some, 2 after an error."""
    return run_command(_parser(), lambda args: int(args.work(args)), argv)


if __name__ == "__main__":
    sys.exit(main())
