"""Reports of a dataset's check, whose images several processes read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.support.dataset_factory import (
    SIZE,
    bbbc038,
    car,
    save,
)
from training.data.check_dataset import main


def test_report_counts_classes_and_roles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    car(tmp_path, 20)
    arguments = ["check", "intelecai-car", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--workers", "2"]) == 0
    out = capsys.readouterr().out
    assert "images     20: 15 train, 1 validation, 4 test" in out
    assert "classes    4: 3 base, 1 target" in out
    assert re.search(r"wheel +target +40 entities in +20 images", out)
    assert re.search(r"light +base +0 entities in +0 images", out)
    assert re.search(r"car +base +20 entities in +20 images", out)
    assert "workers: 2" in out
    assert main([*arguments, "--limit", "5", "--workers", "1"]) == 0
    assert "read       5; 0 of them" in capsys.readouterr().out


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def test_all_broken_files_of_an_image_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    bbbc038(tmp_path / "data")
    folder = tmp_path / "data/stage1_train/id04"
    truncate(folder / "images/id04.png")
    (folder / "masks/m0.png").write_text("text")
    save(folder / "masks/m1.png", np.zeros(SIZE, np.uint8))
    assert main(["check", "bbbc038v1", str(tmp_path / "data"), "--out", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert "problems   3, in 1 of 12 images read" in captured.out
    assert captured.err.count("id04") >= 3


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check", "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and "Examples:" in shown and "oceancoco" in shown
    assert main(["check", "kvasirseg", str(tmp_path)]) == 2
    unknown = capsys.readouterr().err
    assert unknown.count("\n") == 1 and "write kvasir-seg" in unknown
