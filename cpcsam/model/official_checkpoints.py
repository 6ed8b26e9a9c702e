"""The official SAM checkpoints: their names, sizes and digests, by which a file is recognised."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cpcsam.artifacts.manifest import sha256_file
from cpcsam.errors import ArtifactError

__all__ = [
    "OFFICIAL",
    "OfficialCheckpoint",
    "by_digest",
    "by_file_name",
    "identify",
    "mismatch",
    "named_if_official",
    "warn_if_damaged",
]


@dataclass(frozen=True)
class OfficialCheckpoint:
    """One published file.

    Attributes:
        model_size: a key of `ENCODERS`.
        file_name: the name it is published under.
        size_bytes: its length.
        sha256: its digest, 64 hexadecimal digits.
        url: where it is published.
    """

    model_size: str
    file_name: str
    size_bytes: int
    sha256: str
    url: str


HOST: Final = "https://dl.fbaipublicfiles.com/segment_anything"
OFFICIAL: Final[Mapping[str, OfficialCheckpoint]] = {
    model_size: OfficialCheckpoint(model_size, file_name, size, sha256, f"{HOST}/{file_name}")
    for model_size, file_name, size, sha256 in (
        (
            "vit_b",
            "sam_vit_b_01ec64.pth",
            375_042_383,
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        ),
        (
            "vit_l",
            "sam_vit_l_0b3195.pth",
            1_249_524_607,
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        ),
        (
            "vit_h",
            "sam_vit_h_4b8939.pth",
            2_564_550_879,
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        ),
    )
}
"""Keyed by model_size. The six digits in a file's name begin its MD5."""


def by_digest(
    sha256: str, official: Mapping[str, OfficialCheckpoint] = OFFICIAL
) -> OfficialCheckpoint | None:
    """Return the official checkpoint of this SHA-256, or None."""
    return next((known for known in official.values() if known.sha256 == sha256), None)


def by_file_name(
    name: str, official: Mapping[str, OfficialCheckpoint] = OFFICIAL
) -> OfficialCheckpoint | None:
    """Return the official checkpoint that is published under this name, or None."""
    return next((known for known in official.values() if known.file_name == name), None)


def identify(
    file: Path, official: Mapping[str, OfficialCheckpoint] = OFFICIAL
) -> OfficialCheckpoint | None:
    """Identify an official checkpoint by its content, whatever its name; None if it is none.

    Only a file of an official size is read.
    """
    sizes = {known.size_bytes for known in official.values()}
    return by_digest(sha256_file(file), official) if file.stat().st_size in sizes else None


def mismatch(file: Path, known: OfficialCheckpoint) -> str | None:
    """Describe how a file differs from an official checkpoint, and the fix; None if it is equal."""
    size, sha256 = file.stat().st_size, sha256_file(file)
    if (size, sha256) == (known.size_bytes, known.sha256):
        return None
    return (
        f"not the official {known.model_size}: got {size} bytes with sha256 {sha256[:12]}, "
        f"expected {known.size_bytes} bytes with {known.sha256[:12]}; move it away and fetch it "
        f"again by python -m training.checkpoints fetch {known.model_size}"
    )


@contextmanager
def named_if_official(
    file: Path, official: Mapping[str, OfficialCheckpoint] = OFFICIAL
) -> Iterator[None]:
    """Extend an ArtifactError about a file with an official name by how it differs from it."""
    try:
        yield
    except ArtifactError as error:
        known = by_file_name(file.name, official) if file.is_file() else None
        difference = None if known is None else mismatch(file, known)
        if difference is None:
            raise
        raise ArtifactError(f"{error}; {difference}") from error


def warn_if_damaged(file: Path, official: Mapping[str, OfficialCheckpoint] = OFFICIAL) -> None:
    """Warn of other content under an official name and of that length, such as a damaged download.

    torch reads such a file without an error. A file of another length counts as the user's own.
    """
    known = by_file_name(file.name, official) if file.is_file() else None
    if known is not None and file.stat().st_size == known.size_bytes:
        difference = mismatch(file, known)
        if difference is not None:
            warnings.warn(f"{file}: {difference}", stacklevel=3)
