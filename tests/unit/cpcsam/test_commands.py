from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from cpcsam.checks import require_range
from cpcsam.commands import exit_code_of, parser_of, run_command
from cpcsam.errors import ConfigError
from training.data.batches import BatchConfig


def test_exit_code_of_success_is_0_and_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(lambda: None, "prog") == 0
    assert capsys.readouterr() == ("", "")


def test_exit_code_of_a_project_error_is_2_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ConfigError("steps: got 0,\nexpected at least 1")

    assert exit_code_of(fail, "prog") == 2
    assert capsys.readouterr().err == "prog: steps: got 0, expected at least 1\n"


def test_exit_code_of_an_unwritable_folder_is_2_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert exit_code_of(lambda: (file / "below").mkdir(), "prog") == 2
    assert capsys.readouterr().err == f"prog: {file / 'below'}: Not a directory\n"


def test_exit_code_of_a_missing_extra_is_1_and_other_modules_raise(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def lack(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    assert exit_code_of(lambda: lack("pycocotools.mask"), "prog") == 1
    assert "pip install 'cpcsam[client]'" in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError):
        exit_code_of(lambda: lack("nothing"), "prog")


DOC = """Command: double a number.

prog 21
"""


def test_run_command_passes_arguments_and_returns_the_exit_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser = parser_of("prog", DOC)
    parser.add_argument("number", type=int)
    assert run_command(parser, lambda args: args.number * 2, ["21"]) == 42
    shown = parser.format_help()
    assert "\n\ndouble a number.\n\n" in shown and shown.endswith("\nprog 21\n")
    assert capsys.readouterr() == ("", "")


def test_run_command_interrupted_is_one_line_and_130(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(args: object) -> None:
        raise KeyboardInterrupt

    assert run_command(parser_of("prog", DOC), interrupt, []) == 130
    assert capsys.readouterr().err == "prog: interrupted\n"


def test_require_range_accepts_values_in_the_range() -> None:
    require_range("x", 0, 0)
    require_range("x", 1, 0, 1)
    require_range("x", 0.5, 0, 1, above=True, below=True)


@pytest.mark.parametrize(
    ("value", "high", "ends", "expected"),
    [
        (-1, math.inf, {}, "0 or more"),
        (0, math.inf, {"above": True}, "above 0"),
        (1.5, 1, {}, "from 0 to 1"),
        (1, 1, {"below": True}, "from 0 to below 1"),
        (math.nan, 1, {}, "from 0 to 1"),
    ],
)
def test_require_range_rejects_values_outside(
    value: float, high: float, ends: dict[str, bool], expected: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)):
        require_range("x", value, 0, high, **ends)


@pytest.mark.parametrize("name", ["images", "entities", "groups", "min_area"])
def test_config_of_a_batch_without_prompts_is_rejected(name: str) -> None:
    with pytest.raises(ConfigError, match=f"batch.{name}"):
        BatchConfig(**{name: 0})


def test_config_of_a_batch_without_annotators_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"batch\.styles"):
        BatchConfig(styles=())
