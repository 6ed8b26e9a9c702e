"""The documentation names only links, files, modules, commands and options that exist."""

from __future__ import annotations

import re

import pytest

from tests.support.documentation import (
    PAGES,
    Page,
    defines,
    is_command,
    module_file,
    split_dotted,
)
from tests.support.paths import ROOT

MAX_LINES = 300
OTHER_TOOLS = {"--nproc-per-node", "--logdir", "--require-hashes", "--no-deps"}
"""Options of torchrun, TensorBoard and pip."""

each_page = pytest.mark.parametrize("page", PAGES, ids=str)


@pytest.fixture(scope="module")
def sources() -> str:
    """All Python sources, the Makefile and the deployment files, in which options are defined."""
    files = [path for path in ROOT.glob("*/**/*.py") if ".venv" not in path.parts]
    files += [ROOT / "Makefile", ROOT / "docker-compose.yml"]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


@each_page
def test_links_lead_to_existing_files_and_headings(page: Page) -> None:
    headings = {str(other): other.anchors() for other in PAGES}
    for link in page.links():
        path, _, anchor = link.partition("#")
        target = (ROOT / page.path.parent / path).resolve() if path else ROOT / page.path
        assert target.exists(), link
        if anchor:
            assert anchor in headings[str(target.relative_to(ROOT))], link


@each_page
def test_paths_exist(page: Page) -> None:
    missing = [path for path in page.paths() if not (ROOT / path.rstrip(".")).exists()]
    assert missing == []


@each_page
def test_dotted_names_are_defined(page: Page) -> None:
    for name in page.dotted_names():
        module, attributes = split_dotted(name)
        assert module, name
        assert not attributes or defines(module, attributes[0]), name


@each_page
def test_modules_run_are_commands(page: Page) -> None:
    for module in page.modules_run():
        assert module_file(module), module
        assert is_command(module), module


@each_page
def test_make_targets_exist(page: Page) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    assert set(page.make_targets()) <= targets


@each_page
def test_options_are_defined(page: Page, sources: str) -> None:
    unknown = [
        option
        for option in page.options()
        if option not in OTHER_TOOLS
        and f'"{option}"' not in sources
        and not re.search(rf"\b{option[2:].replace('-', '_')}: ", sources)
    ]
    assert unknown == []


@each_page
def test_page_is_short_enough_to_read(page: Page) -> None:
    assert len(page.text.splitlines()) <= MAX_LINES


def test_index_lists_every_page() -> None:
    index = next(page for page in PAGES if str(page) == "docs/README.md")
    linked = {link.partition("#")[0] for link in index.links()}
    pages = {
        str(page.path.relative_to("docs"))
        for page in PAGES
        if page.path.parts[0] == "docs" and page is not index
    }
    assert pages <= linked
