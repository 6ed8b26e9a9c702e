"""Division of classes into base and target classes, 13:6."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

__all__ = ["BASE_SHARE", "split_classes"]

BASE_SHARE = 13 / 19
"""Of the classes; the paper's 13:6."""


def split_classes(
    classes: Iterable[str], known: Iterable[str] = ()
) -> tuple[frozenset[str], frozenset[str]]:
    """Divide classes into base and target classes.

    Args:
        classes: all of them, in any order.
        known: base classes by name, of which some may be absent; all others are then target
            classes. Where this names none or all of them, the order by SHA-256 decides.

    Returns:
        Base and target classes; no target classes if there is only one class.
    """
    names = set(classes)
    base = names & set(known)
    if not base or base == names:
        order = sorted(names, key=_digest)
        count = min(round(len(order) * BASE_SHARE), max(len(order) - 1, 1))
        base = set(order[:count])
    return frozenset(base), frozenset(names - base)


def _digest(name: str) -> str:
    # A list in JSON can hold half of a surrogate pair, which UTF-8 cannot.
    return hashlib.sha256(name.encode(errors="backslashreplace")).hexdigest()
