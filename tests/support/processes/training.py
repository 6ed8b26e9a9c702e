"""A tiny training run, and child processes: a pair that trains together, one that kills itself."""

from __future__ import annotations

import fnmatch
import itertools
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cpcsam.errors import ConfigError, CpcSamError
from cpcsam.model.capl import FULL_CAPL
from cpcsam.scale import Scale
from serving.supervision.ports import reserved_ports
from tests.support.paths import ROOT
from tests.support.processes.forkserver import CONTEXT
from tests.support.training_factory import discs, write_pair
from training.bilevel.config import ModelConfig, OptimizerConfig, TrainConfig
from training.bilevel.run import TrainResult, train
from training.bilevel.step import UPDATE_EVENT
from training.data.batches import BatchConfig
from training.data.sources import DataConfig, SourceConfig
from training.loop.distributed import process_group, process_rank

PATIENCE_S = 300


def tiny_run(folder: Path, images: int = 1) -> TrainConfig:
    """Four steps of the shipped base, which beat it, on data in the folder."""
    image, instances = write_pair(folder, discs(side=200))
    return TrainConfig(
        name="tiny",
        out=folder / "runs",
        steps=4,
        workers=0,
        evaluate_every=2,
        checkpoint_every=1,
        model=ModelConfig(base=ROOT / "weights/vit_t", capl=replace(FULL_CAPL, hidden_dim=8)),
        data=DataConfig(
            train=SourceConfig(image=image, instances=instances, region=(0, 0, 200, 100)),
            validation=SourceConfig(region=(0, 100, 200, 200)),
        ),
        scale=Scale(100, 1.0),
        batch=BatchConfig(images=images, entities=1, groups=2),
        optimizer=OptimizerConfig(lr=1e-3, lr_capl=1e-3),
    )


def trained(config: TrainConfig) -> dict[str, Tensor]:
    """Return the trained weights of a run's last state, by name."""
    state = torch.load(config.folder / "last.pt", weights_only=True)
    return {**state["theta"], **state["phi"], **state["points"]}


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Require equal weights, to the bit."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def greatest_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Return the largest difference of weights, which must have the same names."""
    assert first.keys() == second.keys()
    return max(float((value - second[name]).abs().max()) for name, value in first.items())


def run_pair(target: Callable[[TrainConfig], Any], config: TrainConfig) -> list[Any]:
    """Call a function in two processes of one group; return its results, or errors, by rank."""
    pipes = [CONTEXT.Pipe(duplex=False) for _ in range(2)]
    with reserved_ports("127.0.0.1", {"MASTER_PORT": 0}) as ports:
        children = [
            CONTEXT.Process(target=_member, args=(rank, ports, target, config, pipes[rank][1]))
            for rank in range(2)
        ]
        for child in children:
            child.start()
        for _, sender in pipes:
            sender.close()
        results = [_receive(receiver) for receiver, _ in pipes]
        for child in children:
            child.join(PATIENCE_S)
    return results


def _receive(receiver: Connection) -> Any:
    with receiver:
        assert receiver.poll(PATIENCE_S), "a process neither answered nor ended"
        try:
            return receiver.recv()
        except EOFError:
            return "gone"


def _member(
    rank: int,
    ports: Mapping[str, int],
    target: Callable[[TrainConfig], Any],
    config: TrainConfig,
    sender: Connection,
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(ports["MASTER_PORT"]),
    )
    torch.set_num_threads(1)
    try:
        with process_group():
            result = target(config)
    except CpcSamError as error:
        result = error
    sender.send(result)


def stop_in_one_and_resume(config: TrainConfig) -> tuple[TrainResult, TrainResult]:
    """Let the second process alone be interrupted after step 2, then go on."""
    polls = itertools.count(1)
    stopped = train(config, lambda: process_rank() == 1 and next(polls) == 2)
    return stopped, train(replace(config, resume=True))


def run_by_the_clock(config: TrainConfig) -> TrainResult:
    """Train for as long as one of the processes takes for a step."""
    return train(replace(config, steps=10**6, evaluate_every=10**6, max_minutes=1e-4))


def resume_in_folders_apart(config: TrainConfig) -> str:
    """Resume where only the first process finds the run."""
    apart = replace(config, out=config.out / "elsewhere") if process_rank() else config
    try:
        train(replace(apart, resume=True))
    except ConfigError as error:
        return str(error)
    return "nothing refused"


def lose_one(config: TrainConfig) -> TrainResult:
    """Let the second process vanish after step 2."""
    polls = itertools.count(1)
    return train(config, lambda: process_rank() == 1 and next(polls) == 2 and os._exit(0))


def _is_path(value: Any, pattern: str) -> bool:
    return isinstance(value, str | Path) and fnmatch.fnmatch(str(value), pattern)


FAULT_POINTS: Mapping[str, Callable[[str, tuple[Any, ...]], bool]] = {
    "best model, before its manifest": lambda event, arguments: (
        event == "open" and _is_path(arguments[0], "*/.best.*manifest.json*")
    ),
    "best model, before its rename": lambda event, arguments: (
        event == "os.rename" and _is_path(arguments[1], "*/best")
    ),
    "step 2, before the update of θ": lambda event, arguments: (
        event == UPDATE_EVENT and arguments == ("update_sam", 1)
    ),
    "last.pt, before its rename": lambda event, arguments: (
        event == "os.rename" and _is_path(arguments[1], "*/last.pt")
    ),
    "best model, before the removal of the one it replaced": lambda event, arguments: (
        event == "shutil.rmtree" and _is_path(arguments[0], "*/.best.*")
    ),
    "step 3, before the update of θ": lambda event, arguments: (
        event == UPDATE_EVENT and arguments == ("update_sam", 2)
    ),
}
"""Moments at which a run can be killed, as predicates on Python's audit events."""


def run_and_kill(config: TrainConfig, fault_point: str) -> int | None:
    """Train in a process that kills itself at a fault point.

    Args:
        config: the run.
        fault_point: a key of `FAULT_POINTS`.

    Returns:
        The process's exit code, -SIGKILL if it reached the fault point.
    """
    arguments = (config, fault_point, torch.get_num_threads())
    child = CONTEXT.Process(target=_killed, args=arguments)
    child.start()
    child.join(PATIENCE_S)
    return child.exitcode


def _killed(config: TrainConfig, fault_point: str, threads: int) -> None:
    reached = FAULT_POINTS[fault_point]

    def kill(event: str, arguments: tuple[Any, ...]) -> None:
        if reached(event, arguments):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(kill)
    torch.set_num_threads(threads)
    train(config)
