from __future__ import annotations

from pathlib import Path

import pytest

from cpcsam.commands import exit_code_of
from cpcsam.errors import ConfigError


def test_success_is_zero_and_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(lambda: None, "prog") == 0
    assert capsys.readouterr() == ("", "")


def test_a_project_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ConfigError("steps: got 0,\nexpected at least 1")

    assert exit_code_of(fail, "prog") == 2
    assert capsys.readouterr().err == "prog: steps: got 0, expected at least 1\n"


def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert exit_code_of(lambda: (file / "below").mkdir(), "prog") == 2
    assert capsys.readouterr().err == f"prog: {file / 'below'}: Not a directory\n"


def test_a_missing_extra_is_named_and_any_other_module_is_a_defect(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def lack(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    assert exit_code_of(lambda: lack("pycocotools.mask"), "prog") == 1
    assert "pip install 'cpcsam[client]'" in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError):
        exit_code_of(lambda: lack("nothing"), "prog")
