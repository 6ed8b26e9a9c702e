"""Two processes of one group train as one process does, stop together and name what fails."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from cpcsam.config import to_dict
from cpcsam.errors import TrainingError
from tests.support.commands import start_module
from tests.support.training_processes import (
    greatest_difference,
    lose_one,
    resume_in_folders_apart,
    run_by_the_clock,
    run_pair,
    stop_in_one_and_resume,
    tiny_run,
    trained,
)
from training.bilevel.config import TrainConfig
from training.bilevel.run import train

pytestmark = pytest.mark.slow

TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return replace(
        tiny_run(tmp_path, images=2), precision="float64", evaluate_every=10, checkpoint_every=2
    )


def test_two_processes_stopped_and_resumed_end_at_the_weights_of_one(
    config: TrainConfig, tmp_path: Path
) -> None:
    alone = replace(config, name="alone", checkpoint_every=1)
    train(alone)
    together = replace(alone, name="together", workers=1, resume=True)
    path = tmp_path / "together.yaml"
    path.write_text(yaml.safe_dump(to_dict(together)))
    stopped = start_module([*TORCHRUN, "training.train", str(path)], tmp_path)
    deadline = time.monotonic() + 300
    while not (together.folder / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    stopped.terminate()
    stopped.join(300)
    assert stopped.exitcode not in (0, None)
    step = torch.load(together.folder / "last.pt", weights_only=True)["step"]
    assert 1 <= step < 4
    output, errors = ((tmp_path / name).read_text() for name in ("stdout", "stderr"))
    account, last = output.splitlines()
    assert account.startswith("data.train: "), errors
    assert last == f"{together.folder}: stopped at step {step}; continue with resume=true", errors
    for result in run_pair(train, together):
        assert (result.step, result.finished) == (4, True)
    assert greatest_difference(trained(alone), trained(together)) < 1e-5
    assert len(list((alone.folder / "tensorboard").iterdir())) == 1
    assert len(list((together.folder / "tensorboard").iterdir())) == 2


def test_an_interrupt_in_one_process_stops_both_at_the_same_step(config: TrainConfig) -> None:
    results = run_pair(stop_in_one_and_resume, config)
    assert results[0] == results[1]
    stopped, resumed = results[0]
    assert (stopped.step, stopped.finished) == (2, False)
    assert (resumed.step, resumed.finished) == (4, True)
    unbroken = replace(config, name="unbroken")
    assert train(unbroken).best.dice == pytest.approx(resumed.best.dice)
    assert greatest_difference(trained(config), trained(unbroken)) < 1e-5


def test_the_clock_stops_both_processes_at_the_same_step(config: TrainConfig) -> None:
    first, second = run_pair(run_by_the_clock, config)
    assert first == second
    assert (first.step, first.finished) == (1, True)


def test_processes_that_do_not_see_the_same_run_are_refused(config: TrainConfig) -> None:
    done = replace(config, steps=1)
    train(done)
    for error in run_pair(resume_in_folders_apart, done):
        assert "out: got" in error and "steps 0 and 1" in error


def test_a_process_that_vanishes_is_told_in_one_line(config: TrainConfig) -> None:
    first, second = run_pair(lose_one, replace(config, checkpoint_every=1))
    assert second == "gone"
    assert isinstance(first, TrainingError)
    assert "process 0 of 2: got no answer from another" in str(first)
    assert "\n" not in str(first)
    assert torch.load(config.folder / "last.pt", weights_only=True)["step"] == 1
