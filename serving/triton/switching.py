"""Switch of a running service to another version of its repository: when, and what forbids it.

The current version is the wanted one. Whatever can be known from files is checked before another
Triton is started with it: digests, the classes that would be unusable, and memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from cpcsam.artifacts.manifest import Manifest, read_manifest
from cpcsam.artifacts.versions import CURRENT, current_version, resolve_version
from cpcsam.errors import ArtifactError, ServingError
from serving.triton.check_repository import open_repository

__all__ = ["ClassOrigin", "VersionLink", "check_switch", "origins_of_classes"]

MEMORY: Final = Path("/proc/meminfo")


class VersionLink:
    """Link of a store to its current version, watched for changes.

    Args:
        store: folder of versions; a single version never changes.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._seen = self._state()

    def has_moved(self) -> bool:
        """Return whether the link was written since `resolve` last followed it."""
        state = self._state()
        return state is not None and state != self._seen

    def resolve(self) -> Path:
        """Return the folder of the current version.

        Raises:
            ArtifactError: the link leads to no version.
        """
        self._seen = self._state()
        return resolve_version(self._store)

    def _state(self) -> tuple[int, int] | None:
        try:
            status = (self._store / CURRENT).lstat()
        except OSError:
            return None
        # Each switch makes a new link, also to a version that was refused before.
        return status.st_ino, status.st_ctime_ns


class ClassOrigin(NamedTuple):
    """What stored classes were made with, and cannot be used without.

    Attributes:
        model: digest of the trained model.
        towers: digest of CLIP's towers; empty without classes by text.
    """

    model: str
    towers: str = ""


def check_switch(served: Path, wanted: Path, classes: Mapping[str, ClassOrigin]) -> None:
    """Check a version before a Triton is started with it.

    Args:
        served: folder of the version that is served.
        wanted: folder of the other version.
        classes: as `origins_of_classes` returns them.

    Raises:
        ArtifactError: a file of `wanted` is missing or altered.
        ServingError: classes could not be used any more, or the graphs do not fit into memory.
    """
    _, manifest = open_repository(wanted)
    old = read_manifest(served, "repository", verify=False)
    _require_usable(
        wanted,
        {owner: origin.model for owner, origin in classes.items()},
        ("model", _trained_model(old), _trained_model(manifest)),
        fix="remove those classes first, or serve it beside this service",
    )
    _require_usable(
        wanted,
        {owner: origin.towers for owner, origin in classes.items() if origin.towers},
        ("CLIP", str(old.config.get("clip", "")), str(manifest.config.get("clip", ""))),
        fix="publish it with those towers by --clip, or remove those classes first",
    )
    size = sum((wanted / name).stat().st_size for name in manifest.files)
    free = _available_bytes()
    if size > free:
        raise ServingError.of(
            str(wanted),
            got=f"{size / 1e9:.1f} GB of graphs",
            expected=f"at most {free / 1e9:.1f} GB, the memory that is left beside the old version",
            fix="free memory, or stop the service and start it with this version",
        )


def origins_of_classes(folder: Path | None, initial: Path | None) -> dict[str, ClassOrigin]:
    """Return what stored classes were made with, by tenant; of tenants without classes nothing.

    Args:
        folder: parent of the tenants' vocabularies; None without one.
        initial: vocabulary of tenants without their own, listed as `--vocabulary`; None without.
    """
    vocabularies = {} if initial is None else {"--vocabulary": initial}
    for tenant in sorted(folder.iterdir()) if folder is not None and folder.is_dir() else ():
        if (number := _current(tenant)) is not None:
            vocabularies[tenant.name] = tenant / str(number)
    origins = {}
    for owner, path in vocabularies.items():
        try:
            manifest = read_manifest(path, "vocabulary", verify=False)
        except ArtifactError:
            continue  # replaced meanwhile, or of no use with any model
        by_text = (manifest.config.get("texts") or {}).get("classes")
        towers = manifest.parents.get("clip", "") if by_text else ""
        if by_text or manifest.config.get("names"):
            origins[owner] = ClassOrigin(manifest.parents.get("model", ""), towers)
    return origins


def _require_usable(
    wanted: Path, made_with: Mapping[str, str], change: tuple[str, str, str], fix: str
) -> None:
    """Refuse a change (what, before, after) of what classes were made with, by their owner."""
    what, before, after = change
    lost = sorted(owner for owner, digest in made_with.items() if digest == before != after)
    if lost:
        raise ServingError.of(
            str(wanted),
            got=f"{what} {after[:12] or 'none'}, for which the classes of {', '.join(lost)} could "
            "not be used",
            expected=f"{what} {before[:12]}, with which they were made",
            fix=fix,
        )


def _current(tenant: Path) -> int | None:
    try:
        return current_version(tenant)
    except ArtifactError:
        return None


def _trained_model(manifest: Manifest) -> str:
    """Return what Triton reports as the trained model: the run or base, else the graphs."""
    stated = manifest.config.get("trained_model")
    return str(stated or next(iter(manifest.parents.values()), ""))


def _available_bytes() -> int:
    """Return the memory that the kernel has left without swapping."""
    lines = dict(line.split(":", 1) for line in MEMORY.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) << 10
