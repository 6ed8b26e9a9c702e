from __future__ import annotations

import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from cpcsam.artifacts.manifest import read_manifest
from cpcsam.config import load_config, to_dict
from tests.support.processes.commands import start_module
from tests.support.processes.training import assert_equal, run_and_kill, tiny_run, trained
from training.bilevel.config import TrainConfig
from training.bilevel.run import train
from training.train import main

pytestmark = pytest.mark.slow

LEFTOVERS = {
    "best model, before its manifest": [".best"],
    "best model, before its rename": [".best"],
    "step 2, before the update of θ": [],
    "last.pt, before its rename": [".last.pt"],
    "best model, before the removal of the one it replaced": [".best"],
    "step 3, before the update of θ": [],
}
"""Files that a kill at each fault point leaves; every process resumes the one killed before it.

The base is published before step 1, and step 2 publishes a better model and then writes last.pt.
"""


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return replace(tiny_run(tmp_path), steps=3)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A finished run of `config` that nothing interrupted."""
    config = replace(tiny_run(tmp_path_factory.mktemp("unbroken")), steps=3)
    train(config)
    return config


def last_step(config: TrainConfig) -> int:
    step: int = torch.load(config.folder / "last.pt", weights_only=True)["step"]
    return step


def leftovers(config: TrainConfig) -> list[Path]:
    return [path for path in config.folder.iterdir() if path.name.startswith(".")]


def test_a_run_killed_at_any_moment_resumes_to_the_same_weights(
    config: TrainConfig, unbroken: TrainConfig
) -> None:
    broken = replace(config, resume=True)
    for fault_point, expected in LEFTOVERS.items():
        assert run_and_kill(broken, fault_point) == -signal.SIGKILL, fault_point
        left = sorted(path.name.rpartition(".")[0] for path in leftovers(broken))
        assert left == expected, fault_point
        if (broken.folder / "last.pt").exists():
            assert all(value.isfinite().all() for value in trained(broken).values()), fault_point
        if (broken.folder / "best").exists():
            assert read_manifest(broken.folder / "best", "run").metrics["step"] in (0, 2)
    result = train(broken)
    assert (result.step, result.finished) == (3, True)
    assert leftovers(broken) == []
    assert last_step(broken) == 3
    assert_equal(trained(unbroken), trained(broken))
    best, reference = (read_manifest(c.folder / "best").metrics for c in (broken, unbroken))
    assert best["validation"] == reference["validation"] and best["step"] == reference["step"]


def test_a_best_model_set_aside_by_a_killed_session_is_put_back(config: TrainConfig) -> None:
    config = replace(config, steps=1)
    result = train(config)
    best, aside = config.folder / "best", config.folder / ".best.old.x1"
    aside.mkdir()
    best.rename(aside / "best")
    shutil.copytree(aside / "best", config.folder / ".best.y2")
    (config.folder / ".best.y2/manifest.json").unlink()
    (config.folder / ".last.pt.z3").write_bytes(b"half")
    assert train(replace(config, resume=True)) == result
    assert read_manifest(best, "run").metrics["validation_dice"] == result.best.dice
    assert leftovers(config) == []


def test_a_diverging_run_stops_in_one_line_with_its_last_state(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(to_dict(config)))
    assert main([str(path), "optimizer.lr=1e30", "evaluate_every=100"]) == 2
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert last_line.startswith("python -m training.train: CaPL loss: got nan")
    assert "lower optimizer.lr" in last_line
    assert last_step(config) == 1
    assert all(value.isfinite().all() for value in trained(config).values())


def test_a_killed_run_resumes_to_the_same_weights(
    config: TrainConfig, unbroken: TrainConfig, tmp_path: Path
) -> None:
    """With a process that prepares batches, which the run that nothing interrupted has not."""
    data = config.data
    overrides = [
        "name=killed",
        f"out={config.out}",
        "steps=3",
        "workers=1",
        "evaluate_every=2",
        "checkpoint_every=1",
        f"model.base={config.model.base}",
        "model.capl={hidden_dim: 8, entity: true, reweights: true}",
        f"data.train.image={data.train.image}",
        f"data.train.instances={data.train.instances}",
        "data.train.region=[0,0,200,100]",
        "data.validation.region=[0,100,200,200]",
        "scale={window: 100, spread: 1.0}",
        "batch={images: 1, entities: 1, groups: 2}",
        "optimizer={lr: 1e-3, lr_capl: 1e-3}",
    ]
    empty = tmp_path / "run.yaml"
    empty.write_text("")
    last = config.out / "killed/last.pt"
    process = start_module(["training.train", str(empty), *overrides], tmp_path)
    deadline = time.monotonic() + 300
    while not last.exists() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.join()
    assert last.exists(), (tmp_path / "stderr").read_text()
    resumed = load_config(TrainConfig, empty, [*overrides, "resume=true"])
    assert train(resumed).step == 3
    assert_equal(trained(resumed), trained(unbroken))
