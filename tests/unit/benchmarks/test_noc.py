from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.comparison.methods.clicks import Click, click_through, next_click
from benchmarks.noc.__main__ import main
from benchmarks.noc.protocol import (
    MAX_CLICKS,
    TARGETS,
    SamClicks,
    careless,
    clicks_to,
    views_of,
)
from benchmarks.noc.report import report_of
from cpcsam.contract import LOW_RES_FACTOR, grid_size
from cpcsam.errors import DataError
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.torch_backend import TorchBackend
from cpcsam.transforms import resize_coords, to_frame
from tests.support.paths import ROOT
from tests.support.training_factory import discs

Array = NDArray[np.float32]


def test_views_show_one_entity_or_the_whole_sample() -> None:
    samples = [discs(0), discs(1)]
    windows = views_of(samples, 64, 100)
    assert len(windows) == 8 and len({view.name for view in windows}) == 8
    assert all(view.truth.shape == view.image.shape[:2] == (64, 64) for view in windows)
    assert all(view.truth.any() for view in windows)
    whole = views_of(samples, 0, 4)
    assert [view.name for view in whole] == [f"discs-{n}:{one}" for n in (0, 1) for one in (1, 3)]
    assert whole[0].truth.sum() == (samples[0].instances == 1).sum()
    specks = replace(samples[0], instances=np.pad(np.eye(5, dtype=np.int32), (0, 123)))
    with pytest.raises(DataError, match="no entity of 30 pixels"):
        views_of([specks], 0, 4)


def test_careless_annotator_clicks_the_same_error_badly() -> None:
    view = views_of([discs(0)], 0, 1)[0]
    predicted = np.zeros_like(view.truth)
    accurate = next_click(view.truth, predicted)
    annotator = careless(np.random.default_rng(0), 128)
    drawn = [annotator(view.truth, predicted, ()) for _ in range(80)]
    again = careless(np.random.default_rng(0), 128)
    assert drawn[:9] == [again(view.truth, predicted, ()) for _ in range(9)]
    assert all(click.positive for click in drawn) and accurate not in drawn
    hits = np.mean([view.truth[int(click.y), int(click.x)] for click in drawn])
    assert hits == pytest.approx(0.6, abs=0.15)
    # Half of ten pixels, as the view has half the frame's side.
    column, row, radius = 40, 44, 14
    distances = [np.hypot(click.x - column, click.y - row) for click in drawn]
    assert radius - 4 < min(distances) and radius + 2 < max(distances) <= radius + 6


def test_sam_takes_all_clicks_and_the_logits_of_its_last_mask() -> None:
    model = load_base(ROOT / "weights/vit_t")
    view, other = views_of([discs(7)], 0, 4)[::3]
    system, backend = SamClicks(model), TorchBackend(model)
    frame, input_size = to_frame(view.image, model.image_size)
    embeddings = backend.encode(frame[None], np.array([input_size], np.int32))
    side = LOW_RES_FACTOR * grid_size(model.image_size)

    def direct(clicks: Sequence[Click], mask_input: Array | None) -> Array:
        places = np.array([(click.x, click.y) for click in clicks])
        coords = resize_coords(places, (160, 160), model.image_size)
        labels = np.array([click.positive for click in clicks], np.int32)
        masks, _ = backend.decode(embeddings, coords[None, None], labels[None, None], mask_input)
        return masks[:, :, :1].reshape(1, 1, 1, side, side)

    system.set_image(view.image)
    clicks = [Click(40, 44, True), Click(80, 80, False)]
    first = direct(clicks[:1], None)
    for _ in range(2):  # the first click of an entity takes nothing from the entity before
        system.predict(clicks[:1])
        assert np.allclose(system.low_res_masks, first[0, 0], atol=1e-4)
    system.predict(clicks)
    assert np.allclose(system.low_res_masks, direct(clicks, first)[0, 0], atol=1e-4)
    clicked = click_through(system.predict, other.truth, MAX_CLICKS, stop_at=TARGETS[0])
    assert clicked.ious[-1] >= TARGETS[0]


def test_report_counts_clicks_and_failures() -> None:
    never = [0.5] * MAX_CLICKS
    assert clicks_to(0.85, [0.2, 0.84, 0.85, 0.9]) == 3 and clicks_to(0.85, never) is None
    runs = [
        {
            "name": name,
            "label": name.upper(),
            "setting": "scenes",
            "seed": seed,
            "minutes": 0.1,
            "steps": 5,
            "parameters": 2_000_000,
            "entities": 2,
            "ious": {"accurate": [[0.6, 0.87, 0.92], never], "careless": [[0.9], [0.7, 0.95]]},
            "machine": "x86_64",
            "record": {"budget": {"minutes": 0.1, "steps": None}},
        }
        for name, seed in (("ritm", 0), ("base", 0), ("ritm", 1))
    ]
    report = report_of(runs)
    accurate, careless_table = report.tables
    assert [row[0] for row in accurate.rows] == ["BASE", "RITM"]
    figures = {
        (one["row"], one["column"]): one["value"]
        for one in accurate.figures()
        if one["row"] == "RITM"
    }
    assert figures["RITM", "NoC@85 mean"] == (2 + MAX_CLICKS) / 2
    assert figures["RITM", "NoC@90 mean"] == (3 + MAX_CLICKS) / 2
    assert figures["RITM", "NoF@90 mean"] == 50 and figures["RITM", "NoC@90 seeds"] == 2
    assert figures["RITM", "IoU@5 mean"] == pytest.approx(100 * (0.92 + 0.5) / 2)
    assert str(careless_table.rows[0][2]) == "1.50"
    assert "0.1 CPU minutes" in report.note and report.plots["clicks"].startswith(b"\x89PNG")


def test_noc_is_run_reported_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.calibration.splits.TEST_SCENES", 2)
    options = ["--seeds", "2", "--entities", "2", "--jobs", "1", "--out", str(tmp_path)]
    assert main([*options, "--systems", "base", "--report-only"]) == 2
    assert "got no results of these options" in capsys.readouterr().err
    assert main([*options, "--systems", "base"]) == 0
    captured = capsys.readouterr()
    assert "bbbc038v1 is left out: no --data bbbc038v1=PATH" in captured.err
    assert "### confounded, careless clicks" in captured.out
    (path,) = (tmp_path / "confounded").glob("*.json")  # untrained, so one seed is enough
    run = json.loads(path.read_text())
    for ious in run["ious"].values():
        assert [len(one) == MAX_CLICKS or one[-1] >= TARGETS[-1] for one in ious] == [True, True]
    before = path.stat().st_mtime_ns
    assert main([*options, "--systems", "base"]) == 0 and path.stat().st_mtime_ns == before
    assert (tmp_path / "clicks.png").exists() and "base" in (tmp_path / "report.md").read_text()
