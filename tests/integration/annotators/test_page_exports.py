"""Files that the playground exports, read back."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from cpcsam.client import Prompt
from tests.support.servers.playground import (
    CLICKS,
    NUCLEI,
    Playground,
    served_masks,
)
from training.evaluation.one_click import iou_score

pytestmark = [pytest.mark.slow, pytest.mark.triton]


def test_exports_hold_the_masks_of_the_service(
    playground: Playground, gateway: Any, tmp_path: Path
) -> None:
    playground.open(NUCLEI)
    playground.page.fill("#label", "nucleus")
    playground.page.check("#one-click")
    for click in CLICKS:
        playground.click(*click)
    expected = served_masks(gateway, [Prompt.click(*click) for click in CLICKS])

    coco = COCO(str(playground.export("coco.json", tmp_path)))
    masks = [coco.annToMask(each).astype(bool) for each in coco.dataset["annotations"]]
    assert [iou_score(mask, want) for mask, want in zip(masks, expected, strict=True)] == (
        pytest.approx([1.0] * 3, abs=0.03)
    )
    assert [each["name"] for each in coco.dataset["categories"]] == ["nucleus"]
    assert [each["area"] for each in coco.dataset["annotations"]] == [m.sum() for m in masks]

    index = np.asarray(Image.open(playground.export("mask.png", tmp_path)))
    order = sorted(range(3), key=lambda number: -masks[number].sum())
    layered = np.zeros(index.shape, np.uint8)
    for number in order:
        layered[masks[number]] = number + 1
    np.testing.assert_array_equal(index, layered)

    features = json.loads(playground.export("geojson", tmp_path).read_text())["features"]
    assert [_area(each["geometry"]) for each in features] == [mask.sum() for mask in masks]

    with zipfile.ZipFile(playground.export("yolo.zip", tmp_path)) as archive:
        assert archive.testzip() is None
        lines = archive.read("labels/nuclei.txt").decode().splitlines()
        assert '0: "nucleus"' in archive.read("data.yaml").decode()
    for line, mask in zip(lines, masks, strict=True):
        name, *corners = line.split()
        assert name == "0"
        outline = np.reshape([*map(float, corners)], (-1, 2)) * mask.shape[::-1]
        assert _shoelace(outline) == pytest.approx(mask.sum(), rel=0.05)


def test_contours_of_random_masks_fill_to_the_masks(playground: Playground) -> None:
    """Holes, corners that touch, borders: the polygons hold exactly the mask's pixels."""
    outcome = playground.page.evaluate(
        """async () => {
            const { ringsOf, polygonsOf } = await import("/page/masks/contours.js");
            let seed = 1;
            const random = () => (seed = (seed * 48271) % 2147483647) / 2147483647;
            for (let round = 0; round < 40; round++) {
                const [width, height] = [3 + (round % 9), 12 - (round % 7)];
                const pixels = Uint8Array.from({ length: width * height }, () => random() < 0.6);
                const polygons = polygonsOf(ringsOf({ x: 0, y: 0, width, height, pixels }));
                const canvas = new OffscreenCanvas(width, height);
                const context = canvas.getContext("2d");
                for (const { outer, holes } of polygons) {
                    context.beginPath();
                    for (const ring of [outer, ...holes]) {
                        context.moveTo(...ring[0]);
                        ring.forEach((corner) => context.lineTo(...corner));
                        context.closePath();
                    }
                    context.fill("evenodd");
                }
                const { data } = context.getImageData(0, 0, width, height);
                for (let at = 0; at < pixels.length; at++)
                    if ((data[at * 4 + 3] > 127) !== (pixels[at] === 1)) return `round ${round}`;
                const area = polygons.reduce((sum, polygon) => sum + polygon.area, 0);
                if (area !== pixels.reduce((sum, on) => sum + on, 0)) return `area ${round}`;
            }
            return "equal";
        }"""
    )
    assert outcome == "equal"


def test_yolo_tells_what_it_cannot_hold(playground: Playground) -> None:
    """A ring and a part beside it: one outline of the ring is left, filled."""
    told = playground.page.evaluate(
        """async () => {
            const { yoloOf } = await import("/page/exports/yolo.js");
            const { ringsOf, polygonsOf } = await import("/page/masks/contours.js");
            const rows = ["1110", "1010", "1110", "0001"];
            const pixels = Uint8Array.from(rows.join(""), Number);
            const polygons = polygonsOf(ringsOf({ x: 0, y: 0, width: 4, height: 4, pixels }));
            const image = { name: "ring.png", width: 4, height: 4 };
            return yoloOf(image, [{ label: "", mask: { polygons } }]);
        }"""
    )
    assert told["losses"] == [
        "the holes of 1 mask, which are filled",
        "all but the largest part of 1 mask",
    ]
    (line,) = told["labels"].splitlines()
    assert {*line.split()[1:]} == {"0.000000", "0.750000"}


def _area(geometry: dict[str, Any]) -> float:
    polygons = geometry["coordinates"]
    if geometry["type"] == "Polygon":
        polygons = [polygons]
    return sum(
        _shoelace(np.array(outer)) - sum(_shoelace(np.array(hole)) for hole in holes)
        for outer, *holes in polygons
    )


def _shoelace(corners: np.ndarray) -> float:
    """Area inside a ring."""
    x, y = corners.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
