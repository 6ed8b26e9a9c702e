"""Figures that README and docs quote stand in the benchmark report that they link to.

A paragraph or list item quotes the reports that it links to; a table quotes those that it or the
paragraph just before or after it links to. Every number with a decimal point, and every number that
fills a cell of a table, must stand in the report's Markdown or CSV; it may be rounded, and a share
may be given in per cent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from tests.support.paths import ROOT

REPORTS = ROOT / "benchmarks/reports"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\([^)]*benchmarks/reports/(\w+)\.md[^)]*\)")
NUMBER = re.compile(r"(?<![\w.,])[+-]?\d{1,3}(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?(?![\w]|\.\d|,\d)")
NOT_FIGURES = re.compile(r"`[^`]*`|!?\[([^\]]*)\]\([^)]*\)|AP@0\.5|σ|\*\*")


@dataclass(frozen=True)
class Quote:
    """A block of a page and the reports that it quotes."""

    place: str
    text: str
    reports: tuple[str, ...]


def blocks_of(page: str) -> list[str]:
    """Paragraphs, list items and tables, without code."""
    text = re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S)
    text = re.sub(r"^    .*$", "", text, flags=re.M)
    blocks = re.split(r"\n\s*\n|\n(?=- )", text)
    return [block.strip() for block in blocks if block.strip()]


def quotes_of(path: Path) -> list[Quote]:
    """The blocks of a page that quote a report."""
    blocks = blocks_of(path.read_text())
    quotes = []
    for index, block in enumerate(blocks):
        reports = set(LINK.findall(block))
        if block.startswith("|"):
            for other in (index - 1, index + 1):
                if 0 <= other < len(blocks) and not blocks[other].startswith(("|", "#")):
                    reports |= set(LINK.findall(blocks[other]))
        if reports:
            place = f"{path.relative_to(ROOT)}: {block[:60]!r}"
            quotes.append(Quote(place, block, tuple(sorted(reports))))
    return quotes


def figures_in(block: str) -> list[str]:
    """Numbers with a decimal point, and whole numbers that fill a cell of a table."""
    text = NOT_FIGURES.sub(lambda match: match.group(1) or "", block).replace("−", "-")
    figures = [number for number in NUMBER.findall(text) if "." in number]
    if block.startswith("|"):
        cells = [cell.strip() for line in text.splitlines() for cell in line.split("|")]
        parts = [part.strip() for cell in cells for part in cell.split(", ")]
        figures += [part for part in parts if NUMBER.fullmatch(part) and "." not in part]
    return figures


def known_figures(name: str) -> list[float]:
    """Every number of a report: of its CSV, and of its Markdown's text."""
    table = pd.read_csv(REPORTS / f"{name}.csv")["value"]
    numbers = pd.to_numeric(table, errors="coerce").dropna().tolist()
    text = (REPORTS / f"{name}.md").read_text().replace("−", "-")
    return [*numbers, *(float(number.replace(",", "")) for number in NUMBER.findall(text))]


def stands_in(figure: str, known: list[float]) -> bool:
    """Return whether a known number rounds to the figure, as a share or in per cent."""
    value = abs(float(figure.replace(",", "")))
    decimals = len(figure.partition("e")[0].partition(".")[2])
    half = 0.5000001 * 10**-decimals * (10 ** float(figure.partition("e")[2] or 0))
    return any(
        abs(abs(number) * scale - value) <= half for number in known for scale in (1, 100, 0.01)
    )


QUOTES = [quote for page in PAGES for quote in quotes_of(page)]


@pytest.mark.parametrize("quote", QUOTES, ids=lambda quote: quote.place)
def test_quoted_figure_stands_in_its_report(quote: Quote) -> None:
    known = [number for name in quote.reports for number in known_figures(name)]
    unknown = [figure for figure in figures_in(quote.text) if not stands_in(figure, known)]
    assert not unknown, f"{quote.place}: {', '.join(unknown)} not in {', '.join(quote.reports)}"


def test_every_report_is_quoted_and_has_its_parts() -> None:
    names = {path.stem for path in REPORTS.glob("*.md")}
    assert names == {path.stem for path in REPORTS.glob("*.csv")}
    assert names == {name for page in PAGES for name in LINK.findall(page.read_text())}
    for name in names:
        text = (REPORTS / f"{name}.md").read_text()
        assert re.findall(r"^\| (\w+) \|", text, re.M)[:4] == [
            "command",
            "commit",
            "date",
            "machine",
        ]
        pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
        assert len(pictures) <= 2 and all((REPORTS / file).exists() for file in pictures)


def test_figures_are_found_in_tables_and_paragraphs() -> None:
    assert figures_in(
        "| a | 65.4 ± 0.4 | **+13.1 [+11.3, +14.8]** | 1,330 k | 595 | 204, 190 |"
    ) == [
        *("65.4", "0.4", "+13.1", "+11.3", "+14.8"),
        *("595", "204", "190"),
    ]
    assert figures_in("Of `0.5` the [base, 4.25](x.md#1.5) scores 72.2, an AP@0.5 of 8 %.") == [
        "4.25",
        "72.2",
    ]


def test_figure_is_rounded_or_unknown() -> None:
    known = [0.78463, 13.06]
    assert all(stands_in(figure, known) for figure in ("78.5", "0.785", "+13.1", "13", "78"))
    assert not any(stands_in(figure, known) for figure in ("78.4", "0.79", "13.2", "0.7847"))
