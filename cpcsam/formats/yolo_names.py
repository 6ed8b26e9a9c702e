"""Class names of a YOLO dataset: `names` in a YAML file, or `classes.txt`."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from cpcsam.errors import DataError, extra

__all__ = ["class_names"]


@lru_cache(maxsize=64)
def class_names(labels: Path, root: Path) -> dict[int, str]:
    """Read the class names by number, from the nearest file; empty if no file has them.

    Args:
        labels: folder of label files.
        root: of the dataset. `data.yaml`, another YAML file with `names`, or `classes.txt` lies
            there or between both.

    Raises:
        DataError: a file is damaged.
        ModuleNotFoundError: there is a YAML file, and PyYAML is not installed.
    """
    for folder in (labels, *labels.parents):
        names = _names_in(folder)
        if names or folder == root:
            return names
    return {}


def _names_in(folder: Path) -> dict[int, str]:
    files = sorted(folder.glob("*.y*ml"), key=lambda file: file.name != "data.yaml")
    for file in files:
        with extra("train"):
            import yaml
        try:
            content = yaml.safe_load(file.read_text("utf-8-sig"))
        # PyYAML makes dates and numbers of what looks like them.
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise _damaged(file, type(error).__name__) from error
        names: Any = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, list):
            names = dict(enumerate(names))
        if isinstance(names, dict):
            try:
                return {int(number): str(name) for number, name in names.items()}
            except (TypeError, ValueError, OverflowError) as error:
                raise _damaged(file, "classes without numbers") from error
    file = folder / "classes.txt"
    try:
        lines = file.read_text("utf-8-sig").splitlines() if file.is_file() else []
    except UnicodeDecodeError as error:
        raise _damaged(file, "bytes that are no text") from error
    return {number: line.strip() for number, line in enumerate(lines) if line.strip()}


def _damaged(file: Path, got: str) -> DataError:
    return DataError.of(
        str(file), got=got, expected="names of classes by number", fix="correct the file"
    )
