"""Markdown pages of the documentation, and the names, paths and commands that they mention."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support.paths import ROOT

__all__ = ["PAGES", "Page", "defines", "is_command", "module_file", "split_dotted"]

ROOMS = "benchmarks|cpcsam|demo|export|reporting|serving|tools|training|tests"
"""Top-level folders with Python code."""
FOLDERS = rf"{ROOMS}|\.ci|deploy|docs|findings|model_repository|weights"
PLACEHOLDER = re.compile(r"NAME|FILE|PATH|DIR|CLASS|GRAPH|[*{}<>…]")


@dataclass(frozen=True)
class Page:
    """One Markdown file.

    Attributes:
        path: relative to the root of the checkout.
    """

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def text(self) -> str:
        """The whole file."""
        return (ROOT / self.path).read_text(encoding="utf-8")

    @property
    def prose(self) -> str:
        """The file without its code blocks and code spans."""
        text = re.sub(r"^```.*?^```$", "", self.text, flags=re.M | re.S)
        return re.sub(r"`[^`\n]+`", "", text)

    @property
    def code(self) -> str:
        """Fenced blocks, indented blocks and code spans, one a line."""
        fenced = re.findall(r"^```\w*\n(.*?)^```$", self.text, re.M | re.S)
        rest = re.sub(r"^```.*?^```$", "", self.text, flags=re.M | re.S)
        indented = re.findall(r"(?:^ {4}.*\n)+", rest, re.M)
        spans = re.findall(r"`([^`\n]+)`", rest)
        return re.sub(r"\\\n\s*", "", "\n".join([*fenced, *indented, *spans]))

    def section(self, heading: str) -> str:
        """Return what follows a heading, up to the next one of its level or above."""
        _, mark, rest = self.text.partition(f"\n{heading}\n")
        assert mark, f"{self} has no heading {heading}"
        level = heading.partition(" ")[0]
        return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.M)[0]

    def links(self) -> list[str]:
        """Relative links of the page, images among them."""
        return sorted(set(re.findall(r"\]\((?!https?:)([^)\s]+)\)", self.text)))

    def anchors(self) -> set[str]:
        """Fragments of the headings as GitHub forms them."""
        headings = re.findall(r"^#+ (.+)$", self.text, re.M)
        return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}

    def paths(self) -> list[str]:
        """Paths in code that begin with a top-level folder, without those with a placeholder."""
        found = re.findall(rf"(?<![\w./-])(?:{FOLDERS})/[^\s`'\",;:()\[\]]*", self.code)
        return sorted({path for path in found if not PLACEHOLDER.search(path)})

    def dotted_names(self) -> list[str]:
        """Dotted names in code that begin with a package of this project."""
        found = re.findall(rf"(?<![\w./-])((?:{ROOMS})(?:\.[A-Za-z_]\w*)+)(?![\w./])", self.code)
        return sorted(set(found))

    def modules_run(self) -> list[str]:
        """Modules of this project that the page runs as `python -m MODULE`."""
        return sorted(set(re.findall(rf"python -m ((?:{ROOMS})[\w.]*)", self.code)))

    def make_targets(self) -> list[str]:
        """Targets that the page gives to `make`."""
        return sorted(set(re.findall(r"(?:^|[;&] *)make ([a-z][a-z-]*)", self.code, re.M)))

    def options(self) -> list[str]:
        """Long options that the page gives to commands of this project."""
        return sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", self.code)))


def module_file(module: str) -> Path | None:
    """Return the source of a module or package, None where there is none."""
    base = ROOT.joinpath(*module.split("."))
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def split_dotted(name: str) -> tuple[str, list[str]]:
    """Split a dotted name into its longest importable module and the attributes that follow."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        if module_file(module):
            return module, parts[length:]
    return "", parts


@cache
def defines(module: str, attribute: str) -> bool:
    """Return whether a module's source defines, imports or lazily exports the attribute."""
    file = module_file(module)
    assert file is not None
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names = [name]
            case ast.ClassDef(name=name):
                names = [name]
            case ast.Name(id=name, ctx=ast.Store()):
                names = [name]
            case ast.alias(name=name, asname=renamed):
                names = [renamed or name]
            case ast.Constant(value=str(text)):
                names = [text]
            case _:
                continue
        if attribute in names:
            return True
    return False


def is_command(module: str) -> bool:
    """Return whether `python -m MODULE` runs something."""
    file = module_file(module)
    if file is None:
        return False
    if file.name == "__init__.py":
        return (file.parent / "__main__.py").is_file()
    return 'if __name__ == "__main__"' in file.read_text(encoding="utf-8")


PAGES = [
    Page(path.relative_to(ROOT))
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "findings/README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    )
]
