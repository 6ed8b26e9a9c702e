from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from cpcsam.artifacts.manifest import publish
from cpcsam.client.prompts import Prompt
from cpcsam.client.results import Mask
from demo.commands import DemoError
from demo.measure import histogram_quantile, latency_of, mean_dice, on_one_canvas
from demo.report import COMPARED, conclusion, write_report
from demo.scene import HELD_OUT, WINDOW, Nucleus, Scene, load_scene, otsu_component
from serving.common.metrics_server import serve_metrics
from serving.gateway.metrics import Metrics
from training.data.sample import Sample, fingerprint, read_pair
from training.data.sources import cut_region


def bright_disc(centre: tuple[int, int] = (40, 60)) -> Nucleus:
    y, x = np.mgrid[:WINDOW, :WINDOW]
    truth = np.hypot(x - centre[0], y - centre[1]) < 15
    other = np.hypot(x - 100, y - 100) < 10
    grey = np.where(truth | other, 200, 20).astype(np.uint8)
    window = Sample("disc", np.repeat(grey[:, :, None], 3, axis=2), truth.astype(np.int32))
    click = (float(centre[0]), float(centre[1]))
    return Nucleus(window, (128, 256), truth, click, (click[0] + 14, click[1]))


def as_mask(array: np.ndarray, score: float = 0.9) -> Mask:
    rows, columns = np.nonzero(array)
    return Mask(
        size=array.shape,
        counts=coco_mask.encode(np.asfortranarray(array.astype(np.uint8)))["counts"].decode(),
        score=score,
        box=tuple(map(float, (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))),
        area=int(array.sum()),
    )


def test_otsu_takes_the_component_under_the_click() -> None:
    nucleus = bright_disc()
    image = nucleus.window.image
    assert np.array_equal(otsu_component(image, nucleus.click), nucleus.truth)
    assert not otsu_component(image, (5.0, 5.0)).any()


def test_on_one_canvas_pastes_masks_at_their_windows() -> None:
    nucleus = bright_disc()
    held_out = Sample("h", np.zeros((512, 256, 3), np.uint8), np.zeros((512, 256), np.int32))
    scene = Scene(Path(), Path(), held_out, (nucleus,), 0.0)
    result = on_one_canvas(scene, [as_mask(nucleus.truth)], [Prompt.click(70.0, 70.0)])
    placed = result.masks[0][0]
    expected = np.zeros((512, 256), bool)
    expected[256 : 256 + WINDOW, 128 : 128 + WINDOW] = nucleus.truth
    assert np.array_equal(placed.array, expected)
    assert result.prompts[0].point_coords == ((182.0, 316.0),)
    assert placed.box == as_mask(expected).box
    assert mean_dice([nucleus.truth, ~nucleus.truth], [nucleus, nucleus]) == 0.5


def test_histogram_quantile_matches_prometheus() -> None:
    cumulative = {0.1: 10.0, 0.2: 30.0, 0.4: 40.0, math.inf: 40.0}
    assert histogram_quantile(0.5, cumulative) == pytest.approx(0.15)
    assert histogram_quantile(1.0, cumulative) == pytest.approx(0.4)
    assert histogram_quantile(0.1, cumulative) == pytest.approx(0.04)
    assert histogram_quantile(0.99, {0.1: 1.0, math.inf: 100.0}) == pytest.approx(0.1)


async def test_latency_is_read_from_a_live_endpoint() -> None:
    metrics = Metrics()
    async with serve_metrics(metrics.registry, "127.0.0.1", 0) as port:
        url = f"http://127.0.0.1:{port}/metrics"
        with pytest.raises(DemoError, match="no answered Segment request"):
            await asyncio.to_thread(latency_of, url)
        for _ in range(20):
            metrics.request_seconds.labels("Segment", "OK").observe(0.06)
        metrics.request_seconds.labels("Segment", "INVALID_ARGUMENT").observe(50)
        metrics.request_seconds.labels("Describe", "OK").observe(50)
        latency = await asyncio.to_thread(latency_of, url)
    assert latency.requests == 20
    assert 50 < latency.p50_ms < latency.p99_ms <= 75


def test_conclusion_names_the_best_method() -> None:
    report = {
        "dice_click": 0.8,
        "dice_no_capl": 0.82,
        "dice_base": 0.7,
        "dice_threshold": 0.6,
        "dice_without_capl": 0.1,
    }
    careless = {
        "dice_click": 0.7,
        "dice_no_capl": 0.5,
        "dice_base": 0.6,
        "dice_threshold": 0.4,
        "dice_without_capl": 0.1,
    }
    of_accurate, of_careless = conclusion(report | {"careless": careless}).split(". ")
    assert of_accurate.startswith(f"By accurate clicks best: {COMPARED['dice_no_capl']}")
    assert of_accurate.endswith(f"2.0 points above {COMPARED['dice_click']}")
    assert of_careless.startswith(f"By careless clicks best: {COMPARED['dice_click']}")
    assert of_careless.endswith(f"10.0 points above {COMPARED['dice_base']}.")


def test_report_holds_masks_that_can_be_read_back(tmp_path: Path) -> None:
    nucleus = bright_disc()
    held_out = Sample("h", np.zeros((512, 256, 3), np.uint8), np.zeros((512, 256), np.int32))
    scene = Scene(Path(), Path(), held_out, (nucleus,), 0.0)
    result = on_one_canvas(scene, [as_mask(nucleus.truth)], [Prompt.click(70.0, 70.0)])
    dice = dict.fromkeys(COMPARED, 0.5)
    report = dice | {"careless": dict.fromkeys(COMPARED, 0.25), "nuclei": 1, "note": "<&>"}
    write_report(tmp_path, held_out.image, result, report)
    saved = json.loads((tmp_path / "masks.json").read_text())
    decoded = coco_mask.decode(saved["annotations"][0]["segmentation"])
    assert np.array_equal(decoded.astype(bool), result.masks[0][0].array)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert (tmp_path / "overlay.png").read_bytes()[:4] == b"\x89PNG"
    with Image.open(tmp_path / "moves.png") as moves:
        assert moves.size == (192, 192)
    page = (tmp_path / "report.html").read_text()
    assert "width:50.0%" in page and "width:25.0%" in page
    assert "&lt;&amp;&gt;" in page and "<&>" not in page


def write_base(path: Path, fingerprints: dict[str, str]) -> Path:
    with publish(path, "checkpoint", config={"train_fingerprints": fingerprints}) as staging:
        (staging / "model.safetensors").write_bytes(b"weights")
    return path


def test_load_scene_is_split_and_unknown_to_the_base(tmp_path: Path) -> None:
    scene = load_scene(write_base(tmp_path / "base", {}))
    assert scene.held_out.image.shape == (512, 256, 3)
    assert len(scene.nuclei) > 50
    assert all(n.truth[int(n.click[1]), int(n.click[0])] for n in scene.nuclei)
    hits = [n.truth[int(n.careless_click[1]), int(n.careless_click[0])] for n in scene.nuclei]
    assert 0.3 < np.mean(hits) < 0.7
    whole = read_pair(scene.image_path, scene.instances_path)
    assert np.array_equal(cut_region(whole, HELD_OUT).image, scene.held_out.image)
    known = write_base(tmp_path / "known", {"same": fingerprint(whole.image[:, ::-1])})
    with pytest.raises(DemoError, match="with a training image of the base"):
        load_scene(known)
