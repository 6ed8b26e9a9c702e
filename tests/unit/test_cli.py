"""Options become prompts; every mistake is one line and exit code 2."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cpcsam.cli import _parser, main
from cpcsam.command import exit_code_of
from cpcsam.prompt import Prompt


def prompts(*options: str) -> tuple[Prompt, ...]:
    return tuple(_parser().parse_args(["segment", "x.png", *options]).prompts)


def test_clicks_and_boxes_begin_prompts_and_the_others_add_to_the_last() -> None:
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
    ("argv", "told"),
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
        (["segment", "x.png", "--mask-selection", "some"], "invalid choice: 'some'"),
        (["status", "--timeout", "0"], "got '0', expected a number above 0"),
        (["status", "--timeout", "nan"], "expected a number above 0"),
        (["stats"], "invalid choice: 'stats'"),
        ([], "COMMAND"),
    ],
)
def test_mistakes_are_one_line(
    argv: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(argv)
    except SystemExit as stopped:
        code = stopped.code
    captured = capsys.readouterr()
    assert code == 2
    assert told in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert captured.err.startswith("cpcsam")


def test_a_gateway_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    address = f"127.0.0.1:{free_port()}"
    assert main(["status", "--address", address, "--timeout", "0.3"]) == 2
    assert f"{address}: got" in (told := capsys.readouterr().err) and told.count("\n") == 1


@pytest.mark.parametrize("argv", [["--help"], ["segment", "--help"], ["status", "--help"]])
def test_help_has_examples(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 0
    assert "examples:\n  cpcsam " in capsys.readouterr().out


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("cpcsam ")


@pytest.mark.parametrize("missing", ["PIL", "pycocotools"])
def test_a_missing_extra_prints_its_install_command(missing: str, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"x")
    program = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from cpcsam.cli import main\n"
        f"sys.exit(main(['segment', {str(tmp_path / 'x.png')!r}, '--click', '1,2']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1, done.stderr
    assert "pip install 'cpcsam[client]'" in done.stderr and done.stderr.count("\n") == 1


def test_modules_of_no_extra_are_not_hidden() -> None:
    def work() -> None:
        raise ModuleNotFoundError("No module named 'oops'", name="oops")

    with pytest.raises(ModuleNotFoundError):
        exit_code_of(work, "cpcsam")
