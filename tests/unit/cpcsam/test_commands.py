from __future__ import annotations

from pathlib import Path

import pytest

from cpcsam.commands import exit_code_of, parser_of, run_command
from cpcsam.errors import ConfigError


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
