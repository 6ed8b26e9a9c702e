"""Report of `benchmarks.comparison`: table, gains of CaPL and page of its results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.common.job_cache import digest_of, results_of
from benchmarks.comparison.data import datasets_of
from benchmarks.comparison.jobs import ComparisonJob
from benchmarks.comparison.methods.registry import PAPER_SYSTEMS
from benchmarks.comparison.recipe import Recipe, lacking, methods_of, states_of
from cpcsam.errors import DataError
from reporting.run_report import RunReport, Table
from reporting.scores import Column, Row, cited_rows, measured_rows
from reporting.tables import interval_of, paired_interval
from training.report import all_columns, section_of, write_tables

__all__ = ["base_of", "capl_gains", "report_of", "runs_of", "write_page"]

Runs = Sequence[Mapping[str, Any]]

COUNTERPARTS: Final = {"cpc-sam": "lora-groups"}
"""Methods that differ by CaPL, in addition to NAME+capl and NAME."""


def runs_of(recipe: Recipe, roots: Mapping[str, Path]) -> Runs:
    """Read the results of this configuration in the recipe's order of methods.

    Data that is not given cannot be compared; `checked` of a result tells whether it was.

    Args:
        recipe: of a comparison.
        roots: the datasets' folders by name.

    Raises:
        DataError: there are none.
    """
    jobs = [
        ComparisonJob(name, method, budget, setting, seed, roots, recipe.folder)
        for name, (method, budget) in methods_of(recipe).items()
        for setting in recipe.settings
        for seed in range(recipe.seeds)
    ]
    given = {one.name for one in recipe.settings if set(datasets_of(one)) <= set(roots)}
    runs = [{**run, "checked": run["setting"] in given} for run in results_of(jobs, _matches)]
    if not runs:
        raise DataError.of(
            str(recipe.folder),
            got="no scores of this configuration",
            expected="those of a run",
            fix="run the recipe, or give the options of its run",
        )
    return runs


def _matches(job: ComparisonJob) -> bool:
    record = json.loads(job.path.read_text())["record"]
    data = {name: digest for name, digest in record["data"].items() if name in job.roots}
    return digest_of({**record, "data": data}) == digest_of(job.configuration())


def report_of(recipe: Recipe, runs: Runs) -> RunReport:
    """Make the report of a recipe's results."""
    columns, rows = _scores(recipe, runs)
    scores = Table(
        "",
        ["method", *(column.title for column in columns), "source"],
        [[row.label, *row.cells, row.source] for row in rows],
    )
    more = [table for table in _more_tables(recipe, runs) if table.rows]
    return RunReport(recipe.name, recipe.title, _note(runs), [scores, *more])


def write_page(recipe: Recipe, runs: Runs) -> None:
    """Write table.json, table.csv, table.md and report.html, which shows the pictures."""
    columns, rows = _scores(recipe, runs)
    more = [table for table in _more_tables(recipe, runs) if table.rows]
    write_tables(
        recipe.folder,
        title=recipe.title,
        note=_note(runs),
        rows=rows,
        columns=columns,
        more="".join(f"\n{table.title}:\n\n{table.markdown()}" for table in more),
        sections=[
            section
            for run in runs
            for section in section_of(_path(recipe, run["setting"], run["name"], run["seed"]), run)
        ],
    )


def base_of(runs: Runs) -> str | None:
    """SHA-256 of the base checkpoint that SAM's methods start from; None without any."""
    bases = sorted({run["record"]["method"]["model"]["base"] for run in runs if _is_sam(run)})
    return bases[0] if bases else None


def _scores(recipe: Recipe, runs: Runs) -> tuple[Sequence[Column], list[Row]]:
    columns = recipe.columns or all_columns(runs)
    rows = measured_rows(runs, columns)
    measured = {row.label for row in rows}
    for name, command in lacking(recipe).items():
        label = methods_of(recipe)[name][0].label
        if label not in measured:
            rows.append(Row(label, f"needs weights: `{command}`", (None,) * len(columns)))
    if recipe.cited is not None:
        rows += cited_rows(recipe.cited, columns)
    return columns, rows


def _path(recipe: Recipe, setting: str, name: str, seed: int) -> Path:
    return recipe.folder / setting / f"{name}-{seed}.json"


def _note(runs: Runs) -> str:
    bases = sorted({run["record"]["method"]["model"]["base"][:12] for run in runs if _is_sam(run)})
    seeds = len({run["seed"] for run in runs})
    told: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
        "given every entity's tight box": lambda method: method.get("prompts") == "annotator",
        "given an annotator's clicks on every entity": lambda method: "clicks" in method,
    }
    helped = {
        how: dict.fromkeys(run["label"] for run in runs if applies(run["record"]["method"]))
        for how, applies in told.items()
    }
    listed = [f"{how}: {'; '.join(labels)}" for how, labels in helped.items() if labels]
    given = f" ({'; '.join(listed)})" if listed else ""
    taken = ", ".join(dict.fromkeys(run["setting"] for run in runs if not run["checked"]))
    unchecked = f" Not compared with their data, which was not given: {taken}." if taken else ""
    return (
        f"Scores in %, mean ± standard deviation over {seeds} seed{'s' * (seeds > 1)}; images are "
        f"segmented without prompts of an annotator{given}. Minutes are "
        f"CPU minutes of training, on a GPU minutes. {runs[0]['machine']}"
        f"{', base ' + ', '.join(bases) if bases else ''}.{unchecked}"
    )


def _is_sam(run: Mapping[str, Any]) -> bool:
    return "model" in run["record"]["method"]


def capl_gains(runs: Runs) -> list[dict[str, Any]]:
    """Compute the gain of CaPL for each method in points of Dice, paired by seed.

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
                for (other, place, seed), value in dice.items()
                if (other, place) == (name, setting) and (plain, setting, seed) in dice
            ]
            if pairs and plain is not None:
                gain = paired_interval(pairs)
                row = {"method": labels[plain], "setting": setting, "gain": gain}
                gains.append({**row, "seeds": len(pairs)})
    return gains


def _more_tables(recipe: Recipe, runs: Runs) -> list[Table]:
    """Gains of CaPL, and which of the paper's systems these results have."""
    names = {run["name"] for run in runs}
    states = states_of(recipe) if recipe.cited is not None else {}
    for label, state in states.items():
        if PAPER_SYSTEMS[label] in names:
            states[label] = "run"
        elif state == "run":
            states[label] = "not run: no results yet"
    return [
        _gains_table(capl_gains(runs)),
        Table("Systems of the paper", ["system", "here"], list(states.items())),
    ]


def _gains_table(gains: Sequence[Mapping[str, Any]]) -> Table:
    """Points of Dice that CaPL adds, paired by seed, with 95 % intervals."""
    return Table(
        "Gain of CaPL, in points of Dice, paired by seed, with 95 % intervals",
        ["method", "setting", "CaPL adds", "seeds"],
        [
            [row["method"], row["setting"], interval_of(row["gain"], unpaired=""), row["seeds"]]
            for row in gains
        ],
    )
