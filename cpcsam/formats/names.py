"""Names of images within a dataset: paths below their common folder, with and without suffix.

And names that XML can hold.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cpcsam.errors import ContractError

__all__ = ["names_of", "xml_name"]

NO_XML: Final = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def names_of(files: Iterable[Path], shared: Path) -> list[tuple[str, str]]:
    """Name image files.

    Args:
        files: below `shared`.
        shared: folder, absolute if the files are.

    Returns:
        Of each its POSIX path below `shared`, and the same without the suffix, unless another file
        differs by the suffix alone or has that name, like `a.png` next to `a.png.tif`.
    """
    inside = [Path(os.path.relpath(file, shared)) for file in files]
    stems = Counter(path.with_suffix("") for path in inside)
    taken = {*inside}
    named = []
    for path in inside:
        stem = path.with_suffix("")
        name = path if stems[stem] > 1 or stem in taken else stem
        named.append((path.as_posix(), name.as_posix()))
    return named


def xml_name(name: str) -> str:
    """Return the name of an image or a class as it is.

    Raises:
        ContractError: it has characters that XML cannot hold.
    """
    if NO_XML.search(name):
        raise ContractError.of(
            "name", got=repr(name), expected="characters that XML can hold",
            fix="rename the image or the class, or write another format",
        )  # fmt: skip
    return name
