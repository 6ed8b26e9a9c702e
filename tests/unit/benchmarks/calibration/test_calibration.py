from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks.budget import Budget
from benchmarks.calibration.arms import ABLATIONS, CORE, NOISE, Arm
from benchmarks.calibration.jobs import jobs_of, tempo_file
from benchmarks.calibration.report import write_report
from benchmarks.calibration.runs import noisy_dice, prepare, run
from benchmarks.calibration.splits import Split, development_split, read_split
from benchmarks.calibration.step_time import measure_tempo, steps_of
from benchmarks.common.confounded_scenes import (
    BASE_CLASSES,
    DEVELOPMENT_CLASSES,
    TARGET_CLASSES,
    scene,
)
from benchmarks.common.job_cache import digest_of
from cpcsam.model.base_checkpoint import load_base
from cpcsam.scale import Scale
from reporting.tables import paired_interval
from tests.support.dataset_factory import drawings
from tests.support.paths import ROOT
from training.bilevel.step import BilevelConfig
from training.data.sample import Sample

pytestmark = pytest.mark.slow

BASE = ROOT / "weights/vit_t"


def in_float32() -> dict[str, Arm]:
    """Arms by name; bfloat16 takes nine times as long where a CPU only emulates it."""
    return {arm.name: replace(arm, precision="float32") for arm in CORE}


def tiny_split(entities: int = 9) -> Split:
    def shown(target: bool) -> tuple[Sample]:
        whole = scene(1, target=target)
        kept = np.where(whole.instances <= entities, whole.instances, 0)
        return (replace(whole, instances=kept),)

    train = shown(target=False)
    return Split(train * 2, train, shown(target=True), Scale(202, 1.265))


def test_scene_of_equal_seed_is_equal() -> None:
    first, again, other = scene(3, target=True), scene(3, target=True), scene(4, target=True)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.instances, again.instances)
    assert not np.array_equal(first.image, other.image)
    assert set(np.unique(first.instances)) == set(range(10))


def test_classes_are_13_base_with_and_6_target_without_background() -> None:
    assert (len(BASE_CLASSES), len(TARGET_CLASSES)) == (13, 6)
    assert all(kind.background is not None for kind in BASE_CLASSES)
    assert all(kind.background is None for kind in TARGET_CLASSES)
    fillings = {kind.filling for kind in (*BASE_CLASSES, *TARGET_CLASSES, *DEVELOPMENT_CLASSES)}
    assert len(fillings) == 25


def test_the_development_split_shows_nothing_that_is_tested_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmarks.calibration.splits.DEVELOPMENT_SCENES", 2)
    monkeypatch.setattr("benchmarks.calibration.splits.TEST_SCENES", 2)
    splits = development_split(0, 2), read_split(0, 2)
    developed, tested = (
        {sample.name for part in (split.train, split.base, split.target) for sample in part}
        for split in splits
    )
    assert len(developed) == len(tested) == 5 and not developed & tested


def test_scene_background_predicts_filling_in_base_scenes_only() -> None:
    """Of entities on alike backgrounds, the fillings' colours are alike in base scenes only."""
    spread = {}
    for target in (False, True):
        pairs = []
        for seed in range(5):
            sample = scene(seed, target=target)
            for label in range(1, 10):
                mask = sample.instances == label
                rows, columns = np.nonzero(mask)
                near = np.zeros_like(mask)
                near[max(0, rows.min() - 6) : rows.max() + 7] = True
                near[:, : max(0, columns.min() - 6)] = False
                near[:, columns.max() + 7 :] = False
                ground = near & (sample.instances == 0)
                pairs.append((sample.image[ground].mean(0), sample.image[mask].mean(0)))
        grounds, fills = (np.array(column) for column in zip(*pairs, strict=True))
        distance = np.linalg.norm(grounds[:, None] - grounds[None], axis=-1)
        np.fill_diagonal(distance, np.inf)
        nearest = distance.argmin(1)
        spread[target] = np.median(np.linalg.norm(fills - fills[nearest], axis=-1))
    assert spread[True] > 3 * spread[False]


def test_arms_have_matched_parameters_and_distinct_names() -> None:
    split = tiny_split(entities=1)
    arms = in_float32()
    counts = {
        name: sum(map(torch.numel, prepare(arms[name], split, BASE, 0).state.trained.values()))
        for name in ("groups", "points", "both")
    }
    assert counts["groups"] == pytest.approx(counts["both"], rel=0.01)
    assert counts["groups"] == pytest.approx(counts["points"], rel=0.01)
    short = replace(arms["groups"], groups=1)
    assert run(short, split, BASE, 0, Budget(steps=1))["parameters"] == counts["groups"]
    names = [arm.name for arm in (*CORE, *ABLATIONS)]
    assert len(names) == len(set(names))


def test_noisy_dice_is_lower_for_careless_prompts_and_deterministic() -> None:
    model, samples = load_base(BASE), [scene(1, target=True)]
    careful, careless = (noisy_dice(model, samples, level) for level in (NOISE[0], NOISE[-1]))
    assert careful > careless + 0.05
    assert noisy_dice(model, samples, NOISE[-1]) == careless


def test_paired_interval_equals_the_t_test() -> None:
    differences = [1.0, 2.5, 0.5, 3.0, 1.5]
    mean, low, high = paired_interval(differences)
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert mean == pytest.approx(np.mean(differences))
    assert paired_interval([2.0]) == [2.0]


def test_write_report_tabulates_and_plots_every_result(tmp_path: Path) -> None:
    (tmp_path / "standard").mkdir()
    for arm in CORE[:3]:
        for seed in (0, 1):
            figures = {
                "arm": arm.name,
                "seed": seed,
                "steps": 3,
                "parameters": 1000,
                "target": {str(level): 0.5 + 0.1 * seed for level in NOISE} | {"accurate": 0.8},
                "base": {"1.0": 0.7},
                "curve": [{"progress": 0.0, "base": 0.5, "target": 0.4}],
            }
            path = tmp_path / "standard" / f"{arm.name}-{seed}.json"
            path.write_text(json.dumps(figures))
    context = {"base_sha256": "0" * 64, "minutes": 1, "machine": "x", "target": {"1.0": 0.4}}
    (tmp_path / "context.json").write_text(json.dumps(context))
    (tmp_path / "few-shot").mkdir()
    stale = {**figures, "context": "of another base"}
    (tmp_path / "few-shot/single-0.json").write_text(json.dumps(stale))
    report = write_report(tmp_path)
    assert [table.title for table in report.tables] == [
        "standard",
        "standard: accurate prompts",
    ]
    assert list(report.plots) == ["noise", "epochs"]
    markdown = report.body()
    assert "| 80.0 ± 0.0 | +0.0 [+0.0, +0.0] |" in markdown
    label = next(arm.label for arm in CORE if arm.name == "groups")
    assert f"| {label} | 55.0 ± 7.1 | +0.0 [+0.0, +0.0]" in markdown
    assert json.loads((tmp_path / "report.json").read_text())["summary"]["standard"]
    assert (tmp_path / "noise-standard.png").stat().st_size > 5000
    assert (tmp_path / "epochs-standard.png").stat().st_size > 5000


def test_steps_of_arms_take_the_time_of_the_reference(tmp_path: Path) -> None:
    split, kept = tiny_split(), tmp_path / "tempo.json"
    arms = in_float32()
    both = replace(arms["both"], groups=2, bilevel=BilevelConfig(capl_every=2))
    chosen = [arms["single"], both]
    tempo = measure_tempo(chosen, split, BASE, rounds=2)
    assert tempo["both"] > 1.5 * tempo["single"] > 0
    kept.write_text(json.dumps({"single": 0.5, "both": 1.25}))
    steps = steps_of(chosen, 100, arms["groups"], split, BASE, kept)
    assert steps == {"single": 200, "both": 80}


def test_read_split_of_drawings_shows_unseen_classes_and_drawings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.calibration.splits.TEST_SCENES", 4)
    drawings(tmp_path, count=12)
    split = read_split(0, 2, drawings=tmp_path)
    assert [len(part) for part in (split.train, split.base, split.target)] == [2, 2, 4]
    base, target = (
        {name for sample in part for name in sample.class_names}
        for part in ((*split.train, *split.base), split.target)
    )
    assert base and target and not base & target
    again, other = (read_split(seed, 2, drawings=tmp_path) for seed in (0, 1))
    assert np.array_equal(split.train[0].image, again.train[0].image)
    assert not np.array_equal(split.train[0].image, other.train[0].image)
    assert np.array_equal(split.target[3].image, other.target[3].image)


def options(**changes: object) -> argparse.Namespace:
    defaults = {"base": BASE, "bbbc038": None, "seeds": 1, "minutes": 0.1, "steps": None}
    defaults |= {"drawings": None, "strengths": NOISE, "development": False, "curve": 6}
    return argparse.Namespace(
        **{**defaults, "core_only": True, "arms": None, "out": Path("out"), **changes}
    )


def test_jobs_change_their_digest_with_what_decides_their_results(tmp_path: Path) -> None:
    def digests(**changes: object) -> list[str]:
        return [digest_of(job.configuration()) for job in jobs_of(options(**changes))]

    plain = digests()
    assert len(set(plain)) == len(plain) == 2 * len(CORE)
    assert digests(out=Path("elsewhere")) == plain
    assert not set(digests(minutes=0.2)) & set(plain)
    assert not set(digests(development=True)) & set(plain)
    drawings(tmp_path)
    assert not set(digests(drawings=tmp_path)) & set(plain)
    assert tempo_file(Path("out"), BASE, tmp_path) != tempo_file(Path("out"), BASE)
    assert digests(arms=["both"]) == [
        digest for digest in plain if digest in digests(arms=["both"])
    ]
    (job, *_) = jobs_of(options())
    assert (
        replace(job, arm=replace(job.arm, label="another")).configuration() == job.configuration()
    )
    assert replace(job, arm=replace(job.arm, lr=1.0)).configuration() != job.configuration()
