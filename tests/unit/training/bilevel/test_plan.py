"""What a run settles by its data: the number of steps and the scale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cpcsam.artifacts.manifest import read_manifest
from cpcsam.errors import ConfigError
from cpcsam.scale import SCALE, Scale
from tests.support.processes.training import tiny_run
from tests.support.training_factory import discs
from training.bilevel.config import TrainConfig, run_record
from training.bilevel.plan import planned, steps_for
from training.bilevel.run import train


@pytest.mark.parametrize(("images", "steps"), [(1, 200), (4, 200), (25, 375), (400, 1500)])
def test_steps_grow_with_the_root_of_the_images(images: int, steps: int) -> None:
    assert steps_for(images) == steps
    assert steps_for(10**6) == 3000


def test_a_configuration_that_leaves_nothing_open_stays(tmp_path: Path) -> None:
    config = tiny_run(tmp_path)
    assert planned(config, [discs()], resumed=False) == config


def test_classes_that_are_left_open_are_recorded_by_name(tmp_path: Path) -> None:
    config = tiny_run(tmp_path)
    recorded = run_record(config, [discs()])["data"]
    assert [recorded[part]["classes"] for part in ("train", "validation")] == ["base", "base"]
    train_data = replace(config.data.train, classes="all")
    config = replace(config, data=replace(config.data, train=train_data))
    recorded = run_record(config, [discs()])["data"]
    assert [recorded[part]["classes"] for part in ("train", "validation")] == ["all", "all"]


def test_a_run_declares_the_scale_that_it_found_and_resumes_at_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(tiny_run(tmp_path), find_scale=True, scale=Scale(7, 1.2), steps=2)
    polls = iter([True])
    assert not train(config, lambda: next(polls)).finished
    assert "by the base's Dice on training images (whole 0." in capsys.readouterr().err
    recorded = read_manifest(config.folder / "best", "run").config
    found = Scale.of_manifest(recorded)
    assert found is not None and found.window != 7 and found.spread == 1.2
    assert recorded["train"]["scale"] == recorded[SCALE]
    assert train(replace(config, resume=True)).finished
    assert "scale:" not in capsys.readouterr().err


def test_training_ends_once_patience_is_lost(tmp_path: Path) -> None:
    config = tiny_run(tmp_path)
    ruinous = replace(config.optimizer, lr=0.1, lr_capl=0.1)
    hasty = replace(
        config, steps=40, evaluate_every=1, checkpoint_every=40, patience=2, optimizer=ruinous
    )
    result = train(hasty)
    assert result.finished and result.step == result.best.step + 2 < 40
    best = (hasty.folder / "best/manifest.json").stat().st_mtime_ns
    assert train(replace(hasty, resume=True)) == result
    assert (hasty.folder / "best/manifest.json").stat().st_mtime_ns == best
    (hasty.folder / "last.pt").unlink()  # as earlier releases left such a run
    with pytest.raises(ConfigError, match="resume: got .* ended without a state, expected a last"):
        train(replace(hasty, resume=True))
    assert (hasty.folder / "best/manifest.json").stat().st_mtime_ns == best


def test_runs_that_were_begun_with_keys_of_no_effect_go_on(tmp_path: Path) -> None:
    config = replace(tiny_run(tmp_path), steps=2)
    lora = replace(config.model.lora, encoder_modules=("qkv", "fc1"))
    vain = replace(config, model=replace(config.model, lora=lora, capl=None))
    vain = replace(vain, bilevel=replace(vain.bilevel, capl_every=7))
    with pytest.raises(ConfigError, match=r"bilevel\.capl_every: got values without effect"):
        train(vain)
    with pytest.raises(ConfigError, match=r"encoder_modules: got fc1"):
        train(replace(vain, bilevel=config.bilevel))
    with pytest.MonkeyPatch.context() as earlier:
        earlier.setattr(TrainConfig, "require_effect", lambda _: None)
        earlier.setattr("training.bilevel.run.require_lora_layers", lambda *_: None)
        polls = iter([True])
        assert not train(vain, lambda: next(polls)).finished
    assert train(replace(vain, resume=True)).finished
