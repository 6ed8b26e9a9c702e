"""Account of a dataset: what was found, what was read, and what was left out for which reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

__all__ = ["UNITS", "Account", "Unit", "listed"]

Unit = Literal["images", "pages", "annotations", "entities", "files"]
"""What is counted: rows of lists or image files; pages of files that hold several; outlines in
lists or mask files; labels of a sample; files below the root."""

UNITS: Final[tuple[Unit, ...]] = get_args(Unit)
MAX_NAMES: Final = 8
"""Of classes in a line."""


@dataclass
class Account:
    """Counts by unit; everything found was either read or left out.

    Attributes:
        read: what was read.
        lost: what was left out although it may have been meant, by unit and reason.
        passed: what the rules of the layout leave out, by unit and reason.
        changed: files whose values were changed in reading, by the change.
        background: classes whose entities count as background.
    """

    read: Counter[Unit] = field(default_factory=Counter)
    lost: Counter[tuple[Unit, str]] = field(default_factory=Counter)
    passed: Counter[tuple[Unit, str]] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    background: tuple[str, ...] = ()

    def take(self, unit: Unit, count: int = 1) -> None:
        """Count what was read."""
        self.read[unit] += count

    def lose(self, unit: Unit, reason: str, count: int = 1) -> None:
        """Count what was left out against the user's intention."""
        self.lost[unit, reason] += count

    def pass_over(self, unit: Unit, reason: str, count: int = 1) -> None:
        """Count what was left out by a rule."""
        self.passed[unit, reason] += count

    def add(self, other: Account) -> None:
        """Add the counts of another account."""
        self.read.update(other.read)
        self.lost.update(other.lost)
        self.passed.update(other.passed)
        self.changed.update(other.changed)

    @property
    def has_losses(self) -> bool:
        """Return whether anything was lost or changed."""
        return bool(self.lost.total() or self.changed.total())

    def left_out(self, unit: Unit) -> Counter[str]:
        """Count what was left out of a unit by reason, most first."""
        reasons: Counter[str] = Counter()
        for kept in (self.lost, self.passed):
            for (of, reason), count in kept.items():
                if of == unit and count:
                    reasons[reason] += count
        return Counter(dict(reasons.most_common()))

    def found(self, unit: Unit) -> int:
        """Return the number that was found: read and left out."""
        return self.read[unit] + self.left_out(unit).total()

    def rows(self) -> list[str]:
        """Describe each unit that was found, as `annotations 900 of 912 (12 crowds)`."""
        rows = []
        for unit in UNITS:
            reasons = self.left_out(unit)
            if self.found(unit):
                why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
                row = f"{unit} {self.read[unit]} of {self.found(unit)}"
                rows.append(f"{row} ({why})" if why else row)
        if self.changed:
            why = ", ".join(f"{count} {change}" for change, count in self.changed.most_common())
            rows.append(f"changed in reading: {why}")
        return rows

    def line(self) -> str:
        """Describe the account in one line."""
        return "; ".join(self.rows()) or "nothing"

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, of each unit `found`, `read` and `left_out` by reason."""
        units: dict[str, Any] = {
            unit: {
                "found": self.found(unit),
                "read": self.read[unit],
                "left_out": dict(self.left_out(unit)),
            }
            for unit in UNITS
        }
        return units | {"changed": dict(self.changed)}


def listed(names: Sequence[str]) -> str:
    """Return the first `MAX_NAMES` of names, and how many more there are."""
    rest = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + rest
