"""Reading of an SVG document: its canvas, and its parts drawn alone.

The standard library's parser serves, as only the tree is needed here: resvg interprets it. Its
expat limits the expansion of entities, which older drawings declare.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from cpcsam.errors import DataError

__all__ = ["Canvas", "SvgDocument", "read_svg"]

SVG = "http://www.w3.org/2000/svg"
DRAWN = frozenset(
    f"{{{SVG}}}{name}"
    for name in (
        "a", "circle", "ellipse", "g", "image", "line", "path", "polygon", "polyline", "rect",
        "svg", "switch", "text", "use",
    )
)  # fmt: skip
GROUP = f"{{{SVG}}}g"
HREF = ("href", "{http://www.w3.org/1999/xlink}href")
MAX_DEPTH = 200
"""Levels of elements; copying and writing a tree recurse."""

PIXELS = {"": 1.0, "px": 1.0, "pt": 4 / 3, "pc": 16.0, "mm": 96 / 25.4, "cm": 96 / 2.54, "in": 96.0}
LENGTH = re.compile(r"\s*([+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*(px|pt|pc|mm|cm|in|)\s*")

ElementTree.register_namespace("", SVG)


@dataclass(frozen=True)
class Canvas:
    """Rectangle of a drawing in its own units; `width` and `height` are positive."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class SvgDocument:
    """A parsed drawing.

    Attributes:
        root: its `svg` element.
        canvas: what it shows.
        parts: number of its parts: the groups and shapes at the first level that has several.
    """

    root: ElementTree.Element
    canvas: Canvas
    parts: int

    def placed(self, width: float, height: float, view: Canvas, transform: str = "") -> str:
        """Write a document that shows the whole drawing, its canvas at (0, 0), transformed.

        Args:
            width: of the result, pixels.
            height: of the result, pixels.
            view: what the result shows.
            transform: of the drawing, in SVG's syntax.
        """
        return _placed(self.root, self.canvas, width, height, view, transform)

    def part_placed(
        self, part: int, width: float, height: float, view: Canvas, transform: str = ""
    ) -> str:
        """Write a document that shows a part alone, 0 is the lowest; else like `placed`."""
        root = copy.deepcopy(self.root)
        parent, drawn = _first_level(root)
        for element in drawn[:part] + drawn[part + 1 :]:
            # Not removed, as the part may use it.
            hidden = ElementTree.Element(f"{{{SVG}}}defs")
            parent[list(parent).index(element)] = hidden
            hidden.append(element)
        return _placed(root, self.canvas, width, height, view, transform)


def read_svg(path: Path) -> SvgDocument:
    """Parse a drawing; references to other files are removed.

    Raises:
        DataError: it is unreadable, no SVG, of no size, or nested deeper than `MAX_DEPTH`.
    """
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise _broken(path, f"an unreadable file ({error})", "an XML document") from error
    if root.tag == "svg":
        # As a validating parser would: some DTDs declare the namespace in the document's place.
        for element in root.iter():
            if isinstance(element.tag, str) and not element.tag.startswith("{"):
                element.tag = f"{{{SVG}}}{element.tag}"
    if root.tag != f"{{{SVG}}}svg":
        raise _broken(path, f"the element {root.tag[:80]}", "an svg element")
    if _is_deeper(root, MAX_DEPTH):
        raise _broken(path, "deeply nested elements", f"at most {MAX_DEPTH} levels")
    for element in root.iter():
        for name in HREF:
            # Files of this machine, which would decide what is shown.
            if not element.get(name, "#").lstrip().startswith(("#", "data:")):
                del element.attrib[name]
    canvas = _canvas(root)
    if canvas is None:
        raise _broken(path, "no size", "width and height, or a viewBox")
    return SvgDocument(root, canvas, len(_first_level(root)[1]))


def _is_deeper(root: ElementTree.Element, depth: int) -> bool:
    level = [root]
    for _ in range(depth):
        level = [child for element in level for child in element]
    return bool(level)


def _broken(path: Path, got: str, expected: str) -> DataError:
    return DataError.of(
        str(path), got=got, expected=expected, fix="restore the drawing, or remove it"
    )


def _canvas(root: ElementTree.Element) -> Canvas | None:
    try:
        box = [float(value) for value in re.split(r"[\s,]+", root.get("viewBox", "").strip())]
    except ValueError:
        box = []
    if len(box) != 4:
        lengths = [LENGTH.fullmatch(root.get(name, "")) for name in ("width", "height")]
        sides = [float(m[1]) * PIXELS[m[2]] for m in lengths if m is not None]
        box = [0.0, 0.0, *sides]
    if len(box) != 4 or not all(0 < side < 1e7 for side in box[2:]):
        return None
    return Canvas(*box)


def _first_level(
    root: ElementTree.Element,
) -> tuple[ElementTree.Element, list[ElementTree.Element]]:
    """Descend through groups that hold a single group."""
    parent = root
    while True:
        drawn = [element for element in parent if element.tag in DRAWN]
        if len(drawn) != 1 or drawn[0].tag != GROUP:
            return parent, drawn
        parent = drawn[0]


def _placed(
    drawing: ElementTree.Element,
    canvas: Canvas,
    width: float,
    height: float,
    view: Canvas,
    transform: str,
) -> str:
    # Nested, so that percentages refer to the drawing's own canvas.
    inner = copy.copy(drawing)
    inner.attrib.update(
        x="0", y="0", width=f"{canvas.width}", height=f"{canvas.height}",
        viewBox=f"{canvas.left} {canvas.top} {canvas.width} {canvas.height}",
    )  # fmt: skip
    outer = ElementTree.Element(
        f"{{{SVG}}}svg",
        width=f"{width}",
        height=f"{height}",
        viewBox=f"{view.left} {view.top} {view.width} {view.height}",
    )
    ElementTree.SubElement(outer, GROUP, transform=transform).append(inner)
    return ElementTree.tostring(outer, encoding="unicode")
