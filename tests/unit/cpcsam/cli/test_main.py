"""Prompt options, one-line errors with exit code 2, help texts, label images and status."""

from __future__ import annotations

import argparse
import io
import json
import re
import shlex
import socket
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from cpcsam.cli.classes import _read_labels
from cpcsam.cli.main import _parser, main
from cpcsam.client.prompts import Prompt
from cpcsam.commands import exit_code_of, run_command
from cpcsam.errors import DataError
from tests.support.servers.gateway_peer import peer_gateway


def prompts(*options: str) -> tuple[Prompt, ...]:
    return tuple(_parser().parse_args(["segment", "x.png", *options]).prompts)


def test_prompt_options_start_or_extend_prompts_in_order() -> None:
    assert prompts("--click", "1,2", "--click", "3.5,4") == (
        Prompt.click(1, 2),
        Prompt.click(3.5, 4),
    )
    assert prompts("--click", "1,2", "--negative", "3,4", "--box", "0,1,2,3", "--also", "1,1") == (
        Prompt(((1, 2), (3, 4)), (1, 0)),
        Prompt(((1, 1),), (1,), (0, 1, 2, 3)),
    )
    assert prompts("--click=-1,2") == (Prompt.click(-1, 2),)
    assert prompts("--box", "0,1,2,3", "--negative", "9,9") == (
        Prompt(((9, 9),), (0,), (0, 1, 2, 3)),
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("argv", "output"),
    [
        (
            ["segment", "x.png", "--click", "1"],
            "argument --click: got '1', expected numbers as X,Y",
        ),
        (["segment", "x.png", "--box", "1,2,3"], "expected numbers as X0,Y0,X1,Y1"),
        (["segment", "x.png", "--click", "a,b"], "got 'a,b'"),
        (["segment", "x.png", "--negative", "1,2"], "comes before any --click or --box"),
        (["segment", "x.png"], "prompts: got none"),
        (["segment", "nowhere.png", "--click", "1,2"], "nowhere.png: got No such file"),
        (["segment"], "IMAGE"),
        (
            ["segment", "x.png", "--everything", "--click", "1,2"],
            "got prompts and --every",
        ),
        (
            ["segment", "x.png", "--click", "1,2", "--min-area", "9"],
            "--min-area: got prompts",
        ),
        (
            ["segment", "x.png", "--class", "a", "--logits"],
            "--logits: got --class, expected",
        ),
        (
            ["segment", "x.png", "--everything", "--no-calibration"],
            "--no-calibration: got --everything, expected prompts",
        ),
        (
            ["segment", "x.png", "--everything", "--min-iou", "2"],
            "got '2', expected a number",
        ),
        (["segment", "x.png", "--everything", "--jobs", "0"], "got '0', expected a whole number"),
        (
            ["segment", "x.png", "--click", "1,2", "--mask-input", "nowhere.npz"],
            "nowhere.npz: got No such file or directory, expected a logits.npz",
        ),
        (
            ["segment", "x.png", "--mask", "no.png"],
            "--mask: got no.png (No such file or directory)",
        ),
        (["classes"], "list|add|remove"),
        (["classes", "add", "cell"], "--example"),
        (["classes", "add", "cell", "--example", "x.png"], "expected 2 arguments"),
        (["classes", "add", "cell", "--example", "x.png", "no.png"], "no.png: got No such file"),
        (["segment", "x.png", "--mask-selection", "some"], "invalid choice: 'some'"),
        (["status", "--timeout", "0"], "got '0', expected a number above 0"),
        (["status", "--timeout", "nan"], "expected a number above 0"),
        (["stats"], "invalid choice: 'stats'"),
        ([], "COMMAND"),
    ],
)
def test_invalid_arguments_print_one_line_and_exit_2(
    argv: list[str], output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(argv)
    except SystemExit as stopped:
        code = stopped.code
    captured = capsys.readouterr()
    assert code == 2
    assert output in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert captured.err.startswith("cpcsam")


def test_unreachable_gateway_is_named_in_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    address = f"127.0.0.1:{free_port()}"
    assert main(["status", "--address", address, "--timeout", "0.3"]) == 2
    assert f"{address}: got" in (output := capsys.readouterr().err) and output.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    ["", "segment", "status", "classes", "classes list", "classes add", "classes remove"],
)
def test_help_has_examples(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*words.split(), "--help"])
    assert stopped.value.code == 0
    assert f"examples:\n  cpcsam {words.partition(' ')[0]}" in (output := capsys.readouterr().out)
    for line in re.findall(r"^  cpcsam (.*)$", output, re.M):
        _parser().parse_args(shlex.split(line.partition("   ")[0]))


def test_version_option_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("cpcsam ")


def test_missing_module_of_no_extra_is_raised() -> None:
    def work() -> None:
        raise ModuleNotFoundError("No module named 'oops'", name="oops")

    with pytest.raises(ModuleNotFoundError):
        exit_code_of(work, "cpcsam")


@pytest.mark.parametrize(
    ("mode", "dtype", "expected"),
    [("L", np.uint8, [0, 7, 200]), ("I;16", np.uint16, [0, 7, 60_000]), ("1", bool, [0, 1, 1])],
)
def test_read_labels_keeps_values_and_dtype(
    mode: str, dtype: type, expected: list[int], tmp_path: Path
) -> None:
    Image.fromarray(np.array([expected], dtype)).save(tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as picture:
        assert picture.mode == mode
    labels = _read_labels(tmp_path / "labels.png")
    assert labels.tolist() == [expected] and np.issubdtype(labels.dtype, np.integer)


def test_read_labels_with_an_invalid_image_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    colours = np.zeros((2, 3, 3), np.uint8)
    colours[0, 0] = 1, 2, 3
    for content, got in (
        (colours, "label image: got colours, expected 0 for background"),
        (np.zeros((2, 3), np.uint8), "got background alone, expected a greyscale image"),
    ):
        Image.fromarray(content).save(file)
        with pytest.raises(DataError, match=f"x.png: {got}"):
            _read_labels(file)
    file.write_text("text")
    with pytest.raises(DataError, match="x.png: .*cannot be decoded"):
        _read_labels(file)


@pytest.mark.parametrize("pages", [3, 1])
def test_read_labels_takes_the_page_of_the_image(tmp_path: Path, pages: int) -> None:
    values = np.ones((4, 4), np.uint8) * np.arange(1, 1 + pages, dtype=np.uint8)[:, None, None]
    tifffile.imwrite(tmp_path / "labels.tif", values, photometric="minisblack")
    assert _read_labels(tmp_path / "labels.tif", page=2).max() == pages


def test_status_prints_the_whole_description(capsys: pytest.CaptureFixture[str]) -> None:
    with peer_gateway(is_healthy=False) as (address, _):
        assert main(["status", "--address", address, "--json"]) == 2
        output = capsys.readouterr()
        known = json.loads(output.out)
        assert main(["status", "--address", address]) == 2
    assert output.err.startswith("cpcsam status: health: got not serving")
    assert not known["healthy"] and known["limits"]["max_clicks"] == 1024
    assert known["everything"]["points_per_side"] == 32
    assert known["mask_formats"] == ["COCO_RLE", "PNG", "POLYGONS", "NONE"]
    printed = capsys.readouterr().out
    assert known["window"] == 96 and "window    96 px, trained within a factor of 1.5\n" in printed
    assert "classes   nucleus, cell\n" in printed and "limit     max_seconds 60.5\n" in printed


def test_names_in_no_utf_8_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(content, "utf-8", write_through=True))
    parser = argparse.ArgumentParser()
    assert run_command(parser, lambda _: print("caf\udce9.png"), []) == 0
    assert content.getvalue() == b"caf\\udce9.png\n"
