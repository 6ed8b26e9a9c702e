"""Drawings rendered to pixels, with masks known by geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpcsam.errors import DataError
from tests.support.dataset_factory import svg
from training.data.vector_art.drawings import Drawing
from training.data.vector_art.rendering import MAX_PARTS, Pose, render
from training.data.vector_art.svg import read_svg

DISC = '<circle cx="40" cy="40" r="30" fill="blue"/>'


def drawing(folder: Path, text: str) -> Drawing:
    path = folder / "drawing.svg"
    path.write_text(text)
    return Drawing(path, "shapes", str(hash(text)), "train")


def test_render_circle_gives_its_exact_mask(tmp_path: Path) -> None:
    rendered = render(drawing(tmp_path, svg(DISC)), Pose(200, angle=33, mirrored=True))
    assert rendered.rgba.shape == (200, 200, 4) and rendered.labels.dtype == np.int32
    rows, columns = np.nonzero(rendered.labels)
    centre = np.array([rows.mean(), columns.mean()])
    radius = np.sqrt(len(rows) / np.pi)
    y, x = np.mgrid[:200, :200]
    beyond = np.hypot(y - centre[0], x - centre[1]) - radius
    differing = (beyond < 0) != (rendered.labels == 1)
    assert radius > 60 and np.abs(beyond[differing]).max(initial=0) < 0.5
    assert (rendered.rgba[rendered.labels == 1, 2] == 255).all()


def test_render_parts_gives_what_is_seen_of_each(tmp_path: Path) -> None:
    text = svg(
        '<g transform="translate(0 0)"><g><rect x="10" y="10" width="60" height="60" fill="red"/>'
        '</g><path d="M40 10h30v60h-30z" fill="lime"/></g>'
    )
    rendered = render(drawing(tmp_path, text), Pose(200), parts=True)
    areas = np.bincount(rendered.labels.ravel())
    assert len(areas) == 3 and abs(areas[1] - areas[2]) < 0.02 * areas[1]
    for label, colour in ((1, (255, 0, 0)), (2, (0, 255, 0))):
        inside = rendered.rgba[rendered.labels == label][:, :3]
        # Of a pixel that two parts share, half may be the other's.
        assert (inside == colour).all(1).mean() > 0.97


def test_render_part_keeps_what_it_uses_of_another(tmp_path: Path) -> None:
    text = svg(
        '<rect id="a" x="5" y="5" width="20" height="20"/><g id="b">'
        '<use xlink:href="#a" x="40" y="40" xmlns:xlink="http://www.w3.org/1999/xlink"/></g>'
    )
    labels = render(drawing(tmp_path, text), Pose(150), parts=True).labels
    areas = np.bincount(labels.ravel())
    assert len(areas) == 3 and abs(areas[1] - areas[2]) < 0.05 * areas[1]


def test_render_drawing_fills_its_square_wherever_it_lies(tmp_path: Path) -> None:
    small = svg(
        '<circle cx="20" cy="90" r="8"/>', 'width="50mm" height="80mm" viewBox="0 0 100 160"'
    )
    for text in (svg(DISC), small):
        labels = render(drawing(tmp_path, text), Pose(140)).labels
        rows, columns = np.nonzero(labels)
        # The diagonal of the box, which a coarse probe measures, is the square's side.
        assert 75 < np.ptp(rows) < 100
        assert (rows.mean(), columns.mean()) == pytest.approx((69.5, 69.5), abs=5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (svg(DISC)[:-9], "unreadable file"),
        ("<html/>", "the element html"),
        ('<svg xmlns="http://www.w3.org/2000/svg"/>', "no size"),
        (svg("<g>" * 3000 + "</g>" * 3000), "deeply nested"),
        (svg(""), "hardly an opaque pixel"),
        (svg('<circle cx="40" cy="40" r="30" opacity="0.3"/>'), "hardly an opaque pixel"),
        (svg(f'<rect width="100%" height="100%" fill="white"/>{DISC}'), "a painted ground"),
        (svg(DISC, 'width="4000" height="80"'), "a canvas of 96x2"),
    ],
)
def test_render_unusable_drawing_is_one_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        render(drawing(tmp_path, text), Pose(100))


def test_render_parts_of_too_few_or_many_is_one_error(tmp_path: Path) -> None:
    for count in (1, MAX_PARTS + 1):
        with pytest.raises(DataError, match=f"got {count} parts"):
            render(drawing(tmp_path, svg(DISC * count)), Pose(100), parts=True)


def test_render_shows_no_other_file(tmp_path: Path) -> None:
    Image.new("RGB", (80, 80), "lime").save(tmp_path / "other.png")
    linked = f'<image href="{tmp_path}/other.png" x="0" y="0" width="80" height="80"/>'
    rendered = render(drawing(tmp_path, svg(linked + DISC)), Pose(100))
    assert not (rendered.rgba[:, :, 1] > 0).any()


def test_read_svg_takes_old_documents(tmp_path: Path) -> None:
    path = tmp_path / "old.svg"
    path.write_bytes(
        b'<?xml version="1.0" encoding="latin-1"?><!DOCTYPE svg [<!ENTITY side "2in">]>'
        b'<svg width="&side;" height="1e2"><desc>\xe9</desc><g><g><path/><path/></g></g></svg>'
    )
    document = read_svg(path)
    assert (document.canvas.width, document.canvas.height) == (192, 100)
    assert document.parts == 2
