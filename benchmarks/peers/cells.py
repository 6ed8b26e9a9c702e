"""Measured cells: one result a file, reused while its configuration and the commit are the same."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.load.workloads import Workload
from benchmarks.peers.models import PeerModel
from benchmarks.peers.plan import Setting, supports
from benchmarks.peers.systems.environment import REQUIREMENTS

__all__ = ["COMPARED", "DRIVEN", "SECOND", "STARTED", "Cell", "cells_of", "read_cell"]

STARTED = "start"
COMPARED = "masks"
DRIVEN = "drive"
SECOND = "second load generator"


@dataclass(frozen=True)
class Cell:
    """A measurement of one system in one round.

    Attributes:
        folder: of all cells.
        model: name and digest of its weights.
        turn: number of the round, from 0.
        system: a key of `plan.SYSTEMS`.
        what: STARTED, COMPARED, DRIVEN or SECOND.
        workloads: one, or those whose masks are compared.
        run: commit, cores and whatever else the figures depend on.
    """

    folder: Path
    model: tuple[str, str]
    turn: int
    system: str
    what: str
    workloads: tuple[Workload, ...]
    run: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """File of the result."""
        name = self.workloads[0].name if self.what == DRIVEN else self.what
        slug = re.sub(r"\W+", "-", name).strip("-")
        return self.folder / f"{self.model[0]}-{self.turn}-{self.system}-{slug}.json"

    def configuration(self) -> Mapping[str, Any]:
        """Everything that decides the result, as plain data."""
        return {
            "model": list(self.model),
            "turn": self.turn,
            "system": self.system,
            "what": self.what,
            "workloads": [asdict(workload) for workload in self.workloads],
            "requirements": REQUIREMENTS.read_text(),
            **self.run,
        }


def cells_of(
    folder: Path,
    setting: Setting,
    model: PeerModel,
    turn: int,
    system: str,
    run: Mapping[str, Any],
) -> list[Cell]:
    """List the cells of a system's part in a round, in the order in which they are measured."""

    def cell(what: str, workloads: Sequence[Workload]) -> Cell:
        return Cell(folder, (model.name, model.digest), turn, system, what, tuple(workloads), run)

    cells = [cell(STARTED, [])]
    workloads = [*setting.workloads]
    if turn == 0:
        compared = [workload for workload in setting.compared if supports(system, workload)]
        cells.append(cell(COMPARED, compared))
        workloads += setting.once
    cells += [cell(DRIVEN, [workload]) for workload in workloads if supports(system, workload)]
    if turn == 0 and system == "gateway" and setting.second_load:
        cells.append(cell(SECOND, []))
    return cells


def read_cell(cell: Cell) -> dict[str, Any]:
    """Read a cell's result."""
    result: dict[str, Any] = json.loads(cell.path.read_text())
    return result
