"""A training command killed with its data workers resumes to the same weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cpcsam.config import load_config
from cpcsam.model.base_checkpoint import save_base
from tests.support.model_factory import noisy_sam
from tests.support.paths import ROOT
from tests.support.training_processes import tiny_run
from training.bilevel.config import TrainConfig
from training.bilevel.run import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vit_t"
    save_base(noisy_sam(), path)
    return path


@pytest.fixture
def config(base: Path, tmp_path: Path) -> TrainConfig:
    return tiny_run(tmp_path, base=base)


def trained(config: TrainConfig) -> dict[str, torch.Tensor]:
    state = torch.load(config.folder / "last.pt", weights_only=True)
    return {**state["theta"], **state["phi"], **state["points"]}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_a_killed_run_resumes_to_the_same_weights(config: TrainConfig, tmp_path: Path) -> None:
    unbroken = replace(config, steps=6, name="unbroken", workers=1)
    train(unbroken)
    data = config.data
    overrides = [
        "name=killed",
        f"out={config.out}",
        "steps=6",
        "evaluate_every=2",
        "checkpoint_every=1",
        f"model.base={config.model.base}",
        "model.capl.hidden_dim=8",
        f"data.train.image={data.train.image}",
        f"data.train.instances={data.train.instances}",
        "data.train.region=[0,0,200,100]",
        "data.validation.region=[0,100,200,200]",
        "data.window=100",
        "batch={images: 1, entities: 1, groups: 2}",
        "optimizer={lr: 1e-3, lr_capl: 1e-3}",
    ]
    empty = tmp_path / "run.yaml"
    empty.write_text("")
    last = config.out / "killed/last.pt"
    process = subprocess.Popen(
        [sys.executable, "-m", "training.train", str(empty), *overrides],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    _, errors = process.communicate()
    assert last.exists(), errors.decode()
    resumed = load_config(TrainConfig, empty, [*overrides, "resume=true"])
    assert train(resumed).step == 6
    assert_equal(trained(resumed), trained(unbroken))
