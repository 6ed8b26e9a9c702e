"""Prompt options of the command line, parsed in order.

`--click` and `--box` each start a new prompt; `--also` and `--negative` add a point to the last
prompt.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from cpcsam.client.prompts import Prompt
from cpcsam.commands import ArgumentParser
from cpcsam.contract import PointLabel

__all__ = ["add_prompts"]


def add_prompts(parser: ArgumentParser) -> None:
    """Add the prompt options, which fill `prompts`, a tuple."""
    parser.set_defaults(prompts=())
    group = parser.add_argument_group("prompts")
    for option, numbers, text in (
        ("--click", "X,Y", "a new prompt: a point on the entity"),
        ("--box", "X0,Y0,X1,Y1", "a new prompt: a box around the entity"),
        ("--also", "X,Y", "a further point on the entity"),
        ("--negative", "X,Y", "a background point, outside of the entity"),
    ):
        group.add_argument(option, action=_AddToPrompts, metavar=numbers, help=text)


class _AddToPrompts(argparse.Action):
    """Start a prompt or extend the last; argparse calls it in the order of the options."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Parse the coordinates of an option."""
        form = str(self.metavar)
        numbers = _numbers(str(values))
        if len(numbers) != form.count(",") + 1:
            raise argparse.ArgumentError(self, f"got {values!r}, expected numbers as {form}")
        prompts: tuple[Prompt, ...] = namespace.prompts
        if self.dest == "box":
            x0, y0, x1, y1 = numbers
            namespace.prompts = (*prompts, Prompt(box=(x0, y0, x1, y1)))
            return
        x, y = numbers
        if self.dest == "click":
            namespace.prompts = (*prompts, Prompt.click(x, y))
            return
        if not prompts:
            raise argparse.ArgumentError(self, "comes before any --click or --box to add it to")
        last = prompts[-1]
        label = PointLabel.BACKGROUND if self.dest == "negative" else PointLabel.FOREGROUND
        longer = Prompt((*last.point_coords, (x, y)), (*last.point_labels, int(label)), last.box)
        namespace.prompts = (*prompts[:-1], longer)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return []
