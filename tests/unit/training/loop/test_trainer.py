from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from cpcsam.artifacts.manifest import read_manifest
from cpcsam.config import load_config, read_yaml, to_dict
from cpcsam.errors import ConfigError, TrainingError
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.run_checkpoint import load_run
from tests.support.paths import ROOT
from tests.support.processes.training import assert_equal, tiny_run, trained
from training.bilevel.config import TrainConfig
from training.bilevel.run import TrainResult, train
from training.data.sample import windows
from training.data.sources import read_source
from training.evaluation.one_click import one_click
from training.pretraining.config import PretrainConfig
from training.train import KEPT_BASE, main

CONFIGS = sorted((ROOT / "training/configs").glob("*.yaml"))


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return tiny_run(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, TrainResult]:
    """A run that is over."""
    config = tiny_run(tmp_path_factory.mktemp("finished"))
    return config, train(config)


def test_a_run_leaves_best_last_and_tensorboard(finished: tuple[TrainConfig, TrainResult]) -> None:
    config, result = finished
    assert (result.step, result.finished) == (4, True)
    best = config.folder / "best"
    manifest = read_manifest(best, "run")
    assert manifest.metrics["validation_dice"] == result.best.dice
    assert manifest.metrics["validation_dice_base"] == result.base.dice
    assert manifest.metrics["step"] in (2, 4)
    assert manifest.config["train"]["batch"]["groups"] == 2
    assert manifest.config["train"]["train_sha256"]
    weights = load_file(best / "trained.safetensors")
    assert weights.keys() == trained(config).keys()
    loaded = load_run(best)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in weights.items())
    assert list((config.folder / "tensorboard").iterdir())
    with Image.open(config.folder / "learning_curve.png") as curve:
        assert curve.size == (700, 400)


def test_a_run_that_does_not_beat_the_base_keeps_it_and_says_so(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(to_dict(config)))
    assert main([str(path), "optimizer.lr=0.1", "steps=2"]) == KEPT_BASE == 3
    captured = capsys.readouterr()
    account, result = captured.out.splitlines()
    assert account == "data.train: images 1 of 1; entities 2 of 2"
    assert "best: the base, validation Dice 0." in result
    assert "did not beat in 2 steps" in result
    metrics = read_manifest(config.folder / "best", "run").metrics
    assert metrics["step"] == 0
    assert metrics["validation_dice"] == metrics["validation_dice_base"]
    kept, base = load_run(config.folder / "best"), load_base(config.model.base)
    [sample] = read_source(config.data.validation.or_else(config.data.train), "data.validation")
    by_kept, by_base = (one_click(model, windows(sample, 100)) for model in (kept, base))
    for ours, theirs in zip(by_kept, by_base, strict=True):
        assert np.array_equal(ours.mask, theirs.mask)


@pytest.mark.slow
def test_masks_that_do_not_belong_to_their_images_leave_the_base(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    source = config.data.train
    Image.fromarray(noise).save(source.image or "")
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(to_dict(replace(config, steps=8, evaluate_every=4))))
    assert main([str(path)]) == KEPT_BASE
    captured = capsys.readouterr()
    assert "with other images under the same masks" in captured.err
    assert "do the masks belong to them?" in captured.out
    metrics = read_manifest(config.folder / "best", "run").metrics
    assert metrics["step"] == 0


def test_an_interrupted_run_resumes_to_the_same_weights(
    config: TrainConfig, finished: tuple[TrainConfig, TrainResult]
) -> None:
    broken = replace(config, name="broken")
    polls = iter([False, True])
    result = train(broken, lambda: next(polls))
    assert (result.step, result.finished) == (2, False)
    result = train(replace(broken, resume=True))
    assert (result.step, result.finished) == (4, True)
    assert_equal(trained(broken), trained(finished[0]))
    again = train(replace(broken, resume=True))
    assert again == result


def test_an_existing_run_is_neither_continued_nor_lost_by_accident(
    config: TrainConfig, finished: tuple[TrainConfig, TrainResult]
) -> None:
    earlier = finished[0]
    before = trained(earlier)
    with pytest.raises(ConfigError, match=r"where a run exists.*resume=true.*overwrite=true"):
        train(earlier)
    with pytest.raises(ConfigError, match=r"seed: got 1, expected 0, which the run was begun"):
        train(replace(earlier, seed=1, resume=True))
    assert_equal(trained(earlier), before)
    shutil.copytree(earlier.folder, config.folder)
    assert train(replace(config, seed=1, steps=1, overwrite=True)).step == 1
    assert any(not torch.equal(value, before[name]) for name, value in trained(config).items())


def test_a_diverging_run_keeps_its_last_state(config: TrainConfig) -> None:
    train(config, lambda: True)
    last = config.folder / "last.pt"
    state = torch.load(last, weights_only=True)
    state["theta"]["sam.mask_decoder.iou_token.weight"][:] = torch.inf
    torch.save(state, last)
    before = last.read_bytes()
    with pytest.raises(TrainingError, match=r"loss: got nan .*lower optimizer\.lr"):
        train(replace(config, resume=True))
    assert last.read_bytes() == before


def test_a_time_budget_ends_the_run_with_a_validated_model(config: TrainConfig) -> None:
    result = train(replace(config, steps=10**6, evaluate_every=10**6, max_minutes=1e-4))
    assert result.finished and result.step == 1
    assert (config.folder / "best/manifest.json").exists()


def test_validation_without_entities_is_refused(config: TrainConfig) -> None:
    data = replace(config.data, min_area=10**6)
    with pytest.raises(ConfigError, match="no entity of 1000000 pixels"):
        train(replace(config, data=data))


@pytest.mark.parametrize(
    "name", ["steps", "evaluate_every", "checkpoint_every", "accumulate", "max_minutes"]
)
def test_counts_are_checked(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: got 0"):
        TrainConfig(name="x", **{name: 0})


@pytest.mark.parametrize("name", ["seed", "workers"])
def test_negative_numbers_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: got -1, expected 0 or more"):
        TrainConfig(name="x", **{name: -1})


def test_a_run_is_not_both_continued_and_begun_anew(config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="resume and overwrite: got both true"):
        replace(config, resume=True, overwrite=True)


@pytest.mark.parametrize("key", ["capl_steps=5", "order=sam_first", "losses.beta=1.0"])
def test_settings_of_the_held_out_half_need_something_to_train_on_it(key: str) -> None:
    path, files = ROOT / "training/configs/bbbc038.yaml", "data.train.bbbc038=x"
    changed = [files, f"bilevel.{key}"]
    name = key.partition("=")[0].replace(".", r"\.")
    for overrides in (changed, [*changed, "model.capl=null"]):
        with pytest.raises(ConfigError, match=rf"bilevel\.{name}: got values without effect"):
            load_config(TrainConfig, path, overrides).require_effect()
    for filled in ("capl.reweights=true", "capl.entity=true", "prompt_embedding=phi"):
        load_config(TrainConfig, path, [*changed, f"model.{filled}"]).require_effect()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_committed_configurations_are_valid_and_name_their_command(path: Path) -> None:
    placeholders = [
        word.replace("PATH", "x").replace("IMAGE", "x").replace("LABELS", "x")
        for word in path.read_text().splitlines()[0].split()
        if "=" in word
    ]
    stage = "pretrain" if path.stem.startswith("pretrain") else "train"
    load_config(PretrainConfig if stage == "pretrain" else TrainConfig, path, placeholders)
    assert path.read_text().startswith(f"# python -m training.{stage} training/configs/{path.name}")


@pytest.mark.parametrize(
    "path", [p for p in CONFIGS if not p.stem.startswith("pretrain")], ids=lambda p: p.stem
)
def test_a_run_is_named_as_its_configuration(path: Path) -> None:
    assert read_yaml(path)["name"] == path.stem


def test_the_command_reports_errors_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("name: x\nlr: 3\n")
    assert main([str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("python -m training.train: lr: got an unknown key")
    assert error.count("\n") == 1


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "resume=true" in capsys.readouterr().out
