"""Commands of the README exist, answer --help and are run by .ci/run; its Python runs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.processes.commands import run_module

README = (ROOT / "README.md").read_text()
BASH_BLOCKS = re.findall(r"^```bash\n(.*?)^```$", README, re.M | re.S)
PYTHON_BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S)
COMMANDS = [line for block in BASH_BLOCKS for line in block.splitlines()]
CODE = "\n".join([*COMMANDS, *re.findall(r"`([^`\n]+)`", README)])
SUBCOMMANDS = sorted(set(re.findall(r"\bcpcsam (\w+)", CODE)))
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.M))
GUIDES = "\n".join(path.read_text() for path in sorted((ROOT / "docs").rglob("*.md")))
MODULES = sorted(
    {
        *re.findall(r"python -m ([\w.]+)", CODE),
        *re.findall(r"python -m ((?:training|export|serving|demo)[\w.]*\b)", GUIDES),
        *re.findall(r"\$\(PY\) -m ((?:training|export|serving|demo)[\w.]*)", MAKEFILE),
    }
)
LINKS = sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)", README)))


Answers = dict[tuple[str, ...], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """The answer of every command to --help."""
    commands = [*((module,) for module in MODULES), *(("cpcsam", name) for name in SUBCOMMANDS)]
    return {
        words: run_module([*words, "--help"], tmp_path_factory.mktemp("help")) for words in commands
    }


def assert_is_help(answer: subprocess.CompletedProcess[str]) -> None:
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("usage:")


def test_make_targets_exist() -> None:
    shown = set(re.findall(r"\bmake ([a-z-]+)", CODE))
    assert {"demo", "test"} <= shown
    assert shown <= TARGETS


def test_make_lists_every_target() -> None:
    listed = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(re.findall(r"^  make ([a-z-]+)", listed.stdout, re.M)) == TARGETS


@pytest.mark.parametrize("link", LINKS)
def test_link_exists(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize("module", MODULES)
def test_module_answers_help(module: str, answers: Answers) -> None:
    assert_is_help(answers[module,])


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_subcommand_answers_help(subcommand: str, answers: Answers) -> None:
    assert_is_help(answers["cpcsam", subcommand])


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_run_by_ci(command: str) -> None:
    script = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    assert {command, f"{command} &"} & set(script)


def test_python_block_without_server_prints_output_in_comment(tmp_path: Path) -> None:
    block = PYTHON_BLOCKS[0]
    assert "cpcsam.client" not in block
    expected = re.search(r"^print\(.*\)  # (.+)$", block, re.M)
    assert expected
    file = tmp_path / "block.py"
    file.write_text(block)
    done = run_module([str(file)], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == expected[1]


def test_sections_fit_on_a_screen() -> None:
    sections = re.split(r"^## ", README, flags=re.M)[1:]
    lengths = {section.splitlines()[0]: len(section.splitlines()) for section in sections}
    assert max(lengths.values()) <= 25, lengths
