"""Files that the playground exports, read back."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO

from cpcsam.client import Prompt
from cpcsam.formats import format_of
from cpcsam.formats.fill import fill_polygons
from tests.support.servers.playground import (
    CLICKS,
    NUCLEI,
    Playground,
    served_masks,
)
from training.evaluation.one_click import iou_score

pytestmark = [pytest.mark.slow, pytest.mark.triton]


@pytest.fixture(scope="module")
def modules(context: Any, url: str) -> Iterator[Any]:
    """A page whose modules tests call, which leaves it as it is."""
    opened = Playground(context, url)
    yield opened.page
    opened.close()


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
    assert [line.split()[0] for line in lines] == ["0"] * 3
    for found, mask in zip(_of_yolo(lines, tmp_path, masks[0].shape), masks, strict=True):
        # But for holes and small parts, which the page tells.
        assert iou_score(found, mask) > 0.9


@pytest.mark.parametrize("is_simple", [False, True])
def test_contours_of_random_masks_fill_to_the_masks(modules: Any, is_simple: bool) -> None:
    """Holes, corners that touch, borders: the polygons hold exactly the mask's pixels."""
    outcome = modules.evaluate(
        """async (isSimple) => {
            const { ringsOf, polygonsOf, simpleRings } = await import("/page/masks/contours.js");
            let seed = 1;
            const random = () => (seed = (seed * 48271) % 2147483647) / 2147483647;
            for (let round = 0; round < 40; round++) {
                const [width, height] = [3 + (round % 9), 12 - (round % 7)];
                const pixels = Uint8Array.from({ length: width * height }, () => random() < 0.6);
                const rings = ringsOf({ x: 0, y: 0, width, height, pixels });
                const polygons = polygonsOf(isSimple ? simpleRings(rings) : rings);
                for (const ring of polygons.flatMap(({ outer, holes }) => [outer, ...holes]))
                    if (isSimple && new Set(ring.map(String)).size < ring.length) return "touches";
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
        }""",
        is_simple,
    )
    assert outcome == "equal"


def test_yolo_tells_what_it_cannot_hold(modules: Any, tmp_path: Path) -> None:
    """A ring and a part beside it: one outline of the ring is left, filled; and twice the same."""
    told = modules.evaluate(
        """async () => {
            const { yoloOf } = await import("/page/exports/yolo.js");
            const { ringsOf, polygonsOf } = await import("/page/masks/contours.js");
            const rows = ["1110", "1010", "1110", "0001"];
            const pixels = Uint8Array.from(rows.join(""), Number);
            const polygons = polygonsOf(ringsOf({ x: 0, y: 0, width: 4, height: 4, pixels }));
            const image = { name: "ring.png", width: 4, height: 4 };
            const ring = { label: "", mask: { polygons } };
            return yoloOf(image, [ring, ring]);
        }"""
    )
    assert told["losses"] == [
        "the holes of 2 masks, which are filled",
        "all but the largest part of 2 masks",
        "1 mask equal to another, of which Ultralytics reads one",
    ]
    for mask in _of_yolo(told["labels"].splitlines(), tmp_path, (4, 4)):
        assert mask.tolist() == [[True] * 3 + [False]] * 3 + [[False] * 4]


def test_yolo_outlines_of_random_masks_are_filled_to_the_pixels_that_they_enclose(
    modules: Any, tmp_path: Path
) -> None:
    rounds = modules.evaluate(
        """async () => {
            const { yoloOf } = await import("/page/exports/yolo.js");
            const { ringsOf, polygonsOf } = await import("/page/masks/contours.js");
            let seed = 1;
            const random = () => (seed = (seed * 48271) % 2147483647) / 2147483647;
            return Array.from({ length: 60 }, (_, round) => {
                const [width, height] = [1 + (round % 9), 1 + (round % 7)];
                const pixels = Uint8Array.from({ length: width * height }, () => random() < 0.6);
                pixels[0] = 1;
                const polygons = polygonsOf(ringsOf({ x: 0, y: 0, width, height, pixels }));
                const { labels } = yoloOf({ width, height }, [{ label: "", mask: { polygons } }]);
                return { size: [height, width], labels, outer: polygons[0].outer };
            });
        }"""
    )
    for each in rounds:
        size = tuple(each["size"])
        (mask,) = _of_yolo(each["labels"].splitlines(), tmp_path, size)
        np.testing.assert_array_equal(mask, fill_polygons([each["outer"]], size))


def test_index_and_geojson_tell_what_they_cannot_hold(modules: Any) -> None:
    """A mask below another, one that is partly below it, and one without a pixel."""
    told = modules.evaluate(
        """async () => {
            const { indexPngOf } = await import("/page/exports/png.js");
            const { geojsonOf } = await import("/page/exports/geojson.js");
            const { ringsOf, polygonsOf } = await import("/page/masks/contours.js");
            const entities = ["111100", "010000", "010000", "000000"].map((row, id) => {
                const pixels = Uint8Array.from(row, Number);
                const crop = { x: 0, y: 0, width: 6, height: 1, pixels };
                const area = [...row].filter((pixel) => pixel === "1").length;
                const rings = ringsOf(crop);
                const mask = { crop, area, score: 0.5, rings, polygons: polygonsOf(rings) };
                return { id, label: "", colour: "#ff0000", mask };
            });
            const image = { name: "a.png", width: 6, height: 1 };
            const { losses } = await indexPngOf(image, entities);
            return { losses, geojson: geojsonOf(image, entities) };
        }"""
    )
    assert told["losses"] == [
        "parts of 1 mask below smaller ones",
        "1 mask wholly below others",
        "1 mask without a pixel",
    ]
    collection = json.loads(told["geojson"])
    assert collection["image"] == {"file_name": "a.png", "size": [1, 6]}
    assert [each["properties"]["measurements"]["score"] for each in collection["features"]] == (
        [0.5] * 3
    )


def _of_yolo(lines: list[str], folder: Path, size: tuple[int, ...]) -> list[NDArray[np.bool_]]:
    """The masks of label rows, as Ultralytics fills them."""
    (folder / "labels").mkdir(exist_ok=True)
    (folder / "labels/a.txt").write_text("\n".join(lines))
    (listed,) = format_of("yolo-seg").read(folder)
    height, width = size
    return [mask.array((height, width)) for mask in listed.decode((height, width))]


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
