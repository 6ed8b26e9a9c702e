r"""Compare methods that segment without annotators, on the same images, in the same time.

Examples:
  python -m benchmarks.comparison benchmarks/recipes/comparison.yaml \
      --data bbbc038v1=/data/bbbc038v1
  python -m benchmarks.comparison benchmarks/recipes/comparison.yaml seeds=1 minutes=0.1 \
      methods='[otsu, unet, sam]' out=out/quick                a quick look, without nuclei
  python -m benchmarks.comparison benchmarks/recipes/table3.yaml --data kvasir-seg=/data/Kvasir \
      base=weights/sam_vit_b_01ec64.pth
  python -m benchmarks.comparison benchmarks/recipes/table3.yaml --report-only

Settings whose datasets are not given are left out. Scores are kept in OUT/NAME by the digest of
their configuration: an interrupted comparison resumes, and a changed one runs again. Then
table.json, table.csv, table.md and report.html are written there. Minutes are CPU minutes of
training: with jobs=1 several cores spend them together. RITM alone is given an annotator's clicks.
--report-only needs the options and data of the run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.common.job_cache import missing, run_jobs
from benchmarks.common.output import add_report_option, publish
from benchmarks.comparison.data import add_data_option
from benchmarks.comparison.jobs import jobs_of, run_job
from benchmarks.comparison.recipe import Recipe
from benchmarks.comparison.report import base_of, report_of, runs_of, write_page
from cpcsam.commands import exit_code_of, parser_of
from cpcsam.config import load_config

__all__ = ["main"]

PROG = "python -m benchmarks.comparison"


def _run(args: argparse.Namespace) -> None:
    recipe = load_config(Recipe, args.recipe, args.overrides)
    if recipe.cited is not None:
        recipe = replace(recipe, cited=args.recipe.parent / recipe.cited)
    roots = dict(args.data)
    if not args.report_only:
        run_jobs(missing(jobs_of(recipe, roots)), run_job, recipe.jobs)
    runs = runs_of(recipe, roots)
    write_page(recipe, runs)
    publish(report_of(recipe, runs), recipe.folder / "report.md", args, base_of(runs))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument("recipe", type=Path, help="YAML file, see benchmarks/recipes")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe")
    add_data_option(parser)
    parser.add_argument("--report-only", action="store_true", help="run nothing")
    add_report_option(parser, argv)
    args = parser.parse_intermixed_args(argv)
    return exit_code_of(lambda: _run(args), PROG)


if __name__ == "__main__":
    sys.exit(main())
