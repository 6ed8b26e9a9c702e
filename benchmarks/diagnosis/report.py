"""Report of `benchmarks.diagnosis`: figures of every model on scenes, tissue and fluorescence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.diagnosis.probe import separability
from benchmarks.diagnosis.traces import Answers
from reporting.run_report import RunReport, Table
from reporting.tables import Cell

__all__ = ["figures_of", "report_of"]

RUNS: Final = {
    "scenes": "Confounded scenes, target classes",
    "tissue": "BBBC038v1, stained tissue (target)",
    "fluorescence": "BBBC038v1, fluorescence (base)",
}


def figures_of(careless: Answers, accurate: Answers) -> dict[str, float]:
    """Average the answers to careless prompts by the kind of prompt; Dice of accurate ones too."""
    hit = careless.clicked & ~careless.missed
    kinds = {"missed_click": careless.missed, "click_on_entity": hit, "box": ~careless.clicked}
    distances = {"off": careless.off, "off_moved": careless.off_moved}
    return {
        "dice": float(careless.dice.mean()),
        "dice_missed_click": float(careless.dice[careless.missed].mean()),
        "dice_click_on_entity": float(careless.dice[hit].mean()),
        "dice_box": float(careless.dice[~careless.clicked].mean()),
        "dice_accurate_prompts": float(accurate.dice.mean()),
        "attention_inside": float(careless.inside.mean()),
        "attention_inside_missed_click": float(careless.inside[careless.missed].mean()),
        "entity_share_of_image": float(careless.covered.mean()),
        **{
            f"{name}_{kind}": float(distance[chosen].mean())
            for kind, chosen in kinds.items()
            for name, distance in distances.items()
        },
        "change_missed_click": float(careless.change[careless.missed].mean()),
        "change_click_on_entity": float(careless.change[hit].mean()),
        "change_separates": separability(
            careless.change[careless.clicked], careless.missed[careless.clicked]
        ),
        "bias": float(careless.bias.mean()),
    }


def report_of(folder: Path) -> RunReport:
    """Make the report of the results in a folder."""
    results = {
        name: json.loads(path.read_text())
        for name in RUNS
        if (path := folder / f"{name}.json").exists()
    }
    tables = [table for name, result in results.items() for table in _tables(RUNS[name], result)]
    note = (
        "Models trained from the same base on the same samples, answering careless prompts: Dice, "
        "share of the mask token's attention inside the entity, and `off`, the pixels from the "
        "first point to that of an accurate annotator, before and after CaPL moved it."
    )
    return RunReport("diagnosis", "Diagnosis of calibration", note, tables)


def _tables(title: str, result: Mapping[str, Any]) -> list[Table]:
    models, visible = result["models"], result["visible"]
    budget = ", ".join(
        f"{name} {limits['steps']} steps"
        if limits["steps"] is not None
        else f"{name} {limits['minutes']:g} CPU minutes"
        for name, limits in result["budget"].items()
    )
    tables = [_table(title, "", models, f"Seed {result['seed']}; {budget}.")]
    if visible:
        head = "ROC AUC of a probe for missed clicks, by its inputs"
        tables.append(_table(f"{title}: visible misses", head, visible))
    return tables


def _table(
    title: str, head: str, columns: Mapping[str, Mapping[str, float]], note: str = ""
) -> Table:
    rows = [
        [name, *(Cell(figures[name], decimals=3) for figures in columns.values())]
        for name in next(iter(columns.values()))
    ]
    return Table(title, [head, *columns], rows, note)
