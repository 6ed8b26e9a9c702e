"""Rendering of drawings to pixels, with exact masks, by resvg.

resvg was chosen over CairoSVG: its wheel needs no system library, it covers more of SVG, such as
filters, and it runs no scripts and loads nothing from the network. System fonts are left out, so
text is not drawn and pixels do not depend on the machine's fonts.
"""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cpcsam.errors import DataError
from training.data.vector_art.drawings import Drawing
from training.data.vector_art.svg import Canvas, read_svg

__all__ = ["MAX_PARTS", "Pose", "Rendered", "render"]

OPAQUE = 128
"""Least alpha, of 255, of a pixel of a mask: half covered."""

MAX_PARTS = 24
PROBE_SIDE = 96
MIN_SIDE = 6
MAX_COVER = 0.97
MAX_FRAME_SPREAD = 2.0


@dataclass(frozen=True)
class Pose:
    """Size and orientation of a rendered drawing.

    Attributes:
        side: of the square that its diagonal fits in, pixels.
        angle: clockwise, degrees.
        mirrored: left to right, before turning.
    """

    side: int
    angle: float = 0.0
    mirrored: bool = False


@dataclass(frozen=True)
class Rendered:
    """A drawing in its pose.

    Attributes:
        rgba: (side, side, 4) uint8, alpha not premultiplied.
        labels: (side, side) int32, 0 where less than half covered; 1 for an object, or 1..n for
            the visible pixels of its parts, the lowest part first.
    """

    rgba: NDArray[np.uint8]
    labels: NDArray[np.int32]


def render(drawing: Drawing, pose: Pose, *, parts: bool = False) -> Rendered:
    """Render a drawing as one object, or with the mask of every part.

    A part's mask is its own alpha, drawn alone in its place, without what is drawn over it.

    Raises:
        DataError: the drawing is broken, shows nothing opaque or a painted ground, or has fewer
            than 2 or more than `MAX_PARTS` parts where these are wanted.
    """
    document = read_svg(drawing.path)
    if parts and not 2 <= document.parts <= MAX_PARTS:
        raise _unusable(drawing, f"{document.parts} parts", f"2 to {MAX_PARTS}")
    box = _content(drawing)
    diagonal = float(np.hypot(box.width, box.height))
    view = Canvas(-diagonal / 2, -diagonal / 2, diagonal, diagonal)
    centre_x, centre_y = box.left + box.width / 2, box.top + box.height / 2
    transform = (
        f"rotate({pose.angle}) scale({-1 if pose.mirrored else 1} 1) "
        f"translate({-centre_x} {-centre_y})"
    )
    placing = (pose.side, pose.side, view, transform)
    rgba = _pixels(drawing, document.placed(*placing))
    labels = (rgba[:, :, 3] >= OPAQUE).astype(np.int32)
    if parts:
        labels[:] = 0
        for part in range(document.parts):
            alone = _pixels(drawing, document.part_placed(part, *placing))
            labels[alone[:, :, 3] >= OPAQUE] = part + 1
    return Rendered(rgba, labels)


@functools.lru_cache(maxsize=4096)
def _content(drawing: Drawing) -> Canvas:
    """Find the box of what is opaque, in the drawing's units from its canvas's corner.

    Raises:
        DataError: there is hardly anything, or a ground of one colour is painted.
    """
    document = read_svg(drawing.path)
    canvas = document.canvas
    scale = PROBE_SIDE / max(canvas.width, canvas.height)
    height, width = (max(1, round(side * scale)) for side in (canvas.height, canvas.width))
    if min(height, width) < MIN_SIDE:
        raise _unusable(drawing, f"a canvas of {width}x{height}", "a shape less extreme")
    whole = Canvas(0, 0, canvas.width, canvas.height)
    rgba = _pixels(drawing, document.placed(width, height, whole))
    opaque = rgba[:, :, 3] >= OPAQUE
    rows, columns = np.flatnonzero(opaque.any(1)), np.flatnonzero(opaque.any(0))
    if len(rows) < MIN_SIDE or len(columns) < MIN_SIDE:
        raise _unusable(drawing, "hardly an opaque pixel", "an object")
    if opaque.mean() > MAX_COVER:
        frame = np.concatenate([rgba[0], rgba[-1], rgba[:, 0], rgba[:, -1]])[:, :3]
        if frame.std(0).max() < MAX_FRAME_SPREAD:
            raise _unusable(drawing, "a painted ground", "a transparent one")
    # A pixel more on each side, as the probe is coarse.
    left, right = max(columns[0] - 1, 0), min(columns[-1] + 2, width)
    top, bottom = max(rows[0] - 1, 0), min(rows[-1] + 2, height)
    unit_x, unit_y = canvas.width / width, canvas.height / height
    return Canvas(
        float(left * unit_x),
        float(top * unit_y),
        float((right - left) * unit_x),
        float((bottom - top) * unit_y),
    )


def _pixels(drawing: Drawing, document: str) -> NDArray[np.uint8]:
    import resvg_py  # here, as other data needs no renderer

    try:
        png = resvg_py.svg_to_bytes(svg_string=document, skip_system_fonts=True, dpi=96)
    except ValueError as error:
        raise _unusable(drawing, f"a drawing that resvg refuses ({error})", "SVG 1.1") from error
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGBA"))


def _unusable(drawing: Drawing, got: str, expected: str) -> DataError:
    return DataError.of(
        str(drawing.path), got=got, expected=expected, fix="another drawing is taken instead"
    )
