"""Table and page of `benchmarks.comparison`, from the scores of its runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.calibration.report import paired_interval
from benchmarks.comparison.recipe import Recipe, methods_of
from cpcsam.errors import DataError
from reporting.scores import cited_rows, measured_rows
from training.report import all_columns, section_of, write_tables

__all__ = ["capl_gains", "write_report"]

Runs = Sequence[Mapping[str, Any]]

COUNTERPARTS = {"cpc-sam": "lora-groups"}
"""Methods that differ by CaPL, beside NAME+capl and NAME."""


def write_report(recipe: Recipe) -> str:
    """Write table.json, table.csv, table.md and report.html; return the Markdown.

    Raises:
        DataError: there are no scores.
    """
    runs = _read(recipe)
    if not runs:
        raise DataError.of(
            str(recipe.folder), got="no scores", expected="those of a run", fix="run the recipe"
        )
    columns = recipe.columns or all_columns(runs)
    rows = measured_rows(runs, columns)
    if recipe.cited is not None:
        rows += cited_rows(recipe.cited, columns)
    return write_tables(
        recipe.folder,
        title=recipe.title,
        note=_note(runs),
        rows=rows,
        columns=columns,
        more=_gains_table(capl_gains(runs)),
        sections=[
            section
            for run in runs
            for section in section_of(_path(recipe, run["setting"], run["name"], run["seed"]), run)
        ],
    )


def _path(recipe: Recipe, setting: str, name: str, seed: int) -> Path:
    return recipe.folder / setting / f"{name}-{seed}.json"


def _read(recipe: Recipe) -> Runs:
    """All scores in the recipe's order of methods."""
    paths = [
        _path(recipe, setting.name, name, seed)
        for name in methods_of(recipe)
        for setting in recipe.settings
        for seed in range(recipe.seeds)
    ]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def _note(runs: Runs) -> str:
    bases = sorted({run["record"]["method"]["model"]["base"][:12] for run in runs if _is_sam(run)})
    seeds = len({run["seed"] for run in runs})
    boxed = {
        run["label"]: None
        for run in runs
        if _is_sam(run) and run["record"]["method"]["prompts"] == "annotator"
    }
    given = f" (given every entity's tight box: {'; '.join(boxed)})" if boxed else ""
    return (
        f"Scores in %, mean ± standard deviation over {seeds} seed{'s' * (seeds > 1)}; images are "
        f"segmented without prompts of an annotator{given}. Minutes are "
        f"CPU minutes of training, on a GPU minutes. {runs[0]['machine']}"
        f"{', base ' + ', '.join(bases) if bases else ''}."
    )


def _is_sam(run: Mapping[str, Any]) -> bool:
    return "model" in run["record"]["method"]


def capl_gains(runs: Runs) -> list[dict[str, Any]]:
    """What CaPL adds to each method in points of Dice, paired by seed.

    Returns:
        `method`, `setting`, `gain` (mean and 95 % interval; the mean alone for one seed), `seeds`.
    """
    dice = {(run["name"], run["setting"], run["seed"]): 100 * run["dice"] for run in runs}
    labels = {run["name"]: run["label"] for run in runs}
    gains = []
    for name in labels:
        plain = name.removesuffix("+capl") if name.endswith("+capl") else COUNTERPARTS.get(name)
        for setting in dict.fromkeys(run["setting"] for run in runs):
            pairs = [
                value - dice[plain, setting, seed]
                for (one, where, seed), value in dice.items()
                if (one, where) == (name, setting) and (plain, setting, seed) in dice
            ]
            if pairs and plain is not None:
                gain = paired_interval(pairs)
                row = {"method": labels[plain], "setting": setting, "gain": gain}
                gains.append({**row, "seeds": len(pairs)})
    return gains


def _gains_table(gains: Sequence[Mapping[str, Any]]) -> str:
    if not gains:
        return ""
    lines = [
        "",
        "What CaPL adds, in points of Dice, paired by seed, with 95 % intervals:",
        "",
        "| method | setting | CaPL adds | seeds |",
        "|---|---|---|---|",
    ]
    for row in gains:
        mean, *interval = (f"{value:+.1f}" for value in row["gain"])
        shown = f"{mean} [{', '.join(interval)}]" if interval else mean
        lines.append(f"| {row['method']} | {row['setting']} | {shown} | {row['seeds']} |")
    return "\n".join(lines) + "\n"
