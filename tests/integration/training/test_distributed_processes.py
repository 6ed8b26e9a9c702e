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
from tests.support.processes.commands import start_module
from tests.support.processes.training import (
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
from training.bilevel.run import TrainResult, train

pytestmark = pytest.mark.slow

TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return _config(tmp_path)


def _config(folder: Path) -> TrainConfig:
    return replace(
        tiny_run(folder, images=2),
        steps=3,
        precision="float64",
        evaluate_every=10,
        checkpoint_every=1,
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, TrainResult]:
    """A run of a single process that nothing interrupts."""
    config = _config(tmp_path_factory.mktemp("alone"))
    return config, train(config)


def test_two_processes_stopped_and_resumed_end_at_the_weights_of_one(
    alone: tuple[TrainConfig, TrainResult], config: TrainConfig, tmp_path: Path
) -> None:
    together = replace(config, workers=1, resume=True)
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
    assert 1 <= step < 3
    output, errors = ((tmp_path / name).read_text() for name in ("stdout", "stderr"))
    account, last = output.splitlines()
    assert account.startswith("data.train: "), errors
    assert last == f"{together.folder}: stopped at step {step}; continue with resume=true", errors
    for result in run_pair(train, together):
        assert (result.step, result.finished) == (3, True)
    reference, _ = alone
    assert greatest_difference(trained(reference), trained(together)) < 1e-5
    assert len(list((reference.folder / "tensorboard").iterdir())) == 1
    assert len(list((together.folder / "tensorboard").iterdir())) == 2


def test_an_interrupt_in_one_process_stops_both_at_the_same_step(
    alone: tuple[TrainConfig, TrainResult], config: TrainConfig
) -> None:
    results = run_pair(stop_in_one_and_resume, replace(config, checkpoint_every=2))
    assert results[0] == results[1]
    stopped, resumed = results[0]
    assert (stopped.step, stopped.finished) == (2, False)
    assert (resumed.step, resumed.finished) == (3, True)
    reference, unbroken = alone
    assert unbroken.best.dice == pytest.approx(resumed.best.dice)
    assert greatest_difference(trained(config), trained(reference)) < 1e-5


def test_the_clock_stops_both_processes_at_the_same_step(config: TrainConfig) -> None:
    first, second = run_pair(run_by_the_clock, config)
    assert first == second
    assert (first.step, first.finished) == (1, True)


def test_processes_that_do_not_see_the_same_run_are_refused(
    alone: tuple[TrainConfig, TrainResult],
) -> None:
    for error in run_pair(resume_in_folders_apart, alone[0]):
        assert "out: got" in error and "steps 0 and 3" in error


def test_a_process_that_vanishes_is_told_in_one_line(config: TrainConfig) -> None:
    first, second = run_pair(lose_one, config)
    assert second == "gone"
    assert isinstance(first, TrainingError)
    assert "process 0 of 2: got no answer from another" in str(first)
    assert "\n" not in str(first)
    assert torch.load(config.folder / "last.pt", weights_only=True)["step"] == 1
