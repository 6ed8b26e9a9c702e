from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from collections.abc import Sequence

import pytest
import torch

from cpcsam.errors import DataError, TrainingError
from tests.support.training_factory import SCALE, discs, tiny_batches
from training.data.batches import BatchConfig, StepBatches
from training.data.prefetch import prefetch
from training.data.sample import Sample

CPU = torch.device("cpu")
SEED = 1
"""Of batches whose first step leaves the third sample out."""


@pytest.mark.parametrize("workers", [0, 1])
def test_the_stream_goes_on_where_a_run_stopped(workers: int) -> None:
    batches = tiny_batches(steps=4)
    steps = list(prefetch(batches, 2, workers, CPU))
    assert len(steps) == 2
    assert torch.equal(steps[0].training.image, batches[2].training.image)
    assert torch.equal(steps[1].held_out.masks, batches[3].held_out.masks)


class Garbage:
    """Refers to itself, so that the collector alone destroys it."""

    destroyed = 0

    def __init__(self) -> None:
        self.own = self

    def __del__(self) -> None:
        Garbage.destroyed += 1


class Collecting:
    """Batches whose worker collects garbage, and tells how much was destroyed."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> torch.Tensor:
        if torch.utils.data.get_worker_info() is not None:
            gc.collect()
        return torch.tensor(Garbage.destroyed)


def test_a_worker_leaves_the_garbage_of_its_parent_alone() -> None:
    gc.disable()
    try:
        Garbage()
        assert [int(destroyed) for destroyed in prefetch(Collecting(), 0, 1, CPU)] == [0]
    finally:
        gc.enable()


def test_a_worker_that_dies_is_told_when_its_batch_is_missed() -> None:
    handler = signal.getsignal(signal.SIGCHLD)
    others = {*multiprocessing.active_children()}
    steps = prefetch(tiny_batches(steps=100), 0, 1, CPU)
    next(steps)
    (worker,) = {*multiprocessing.active_children()} - others
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    with pytest.raises(TrainingError, match=r"got \(pid.*lower workers") as caught:
        list(steps)
    assert "\n" not in str(caught.value)
    assert signal.getsignal(signal.SIGCHLD) == handler


class OneUnreadable(Sequence[Sample]):
    """Three samples, read on access; the file of the last one is broken."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        if index == 2:
            raise DataError.of("2.png", got="no image", expected="an image", fix="restore it")
        return discs(index)


def test_an_error_in_a_worker_is_its_message_in_one_line() -> None:
    config = BatchConfig(images=1, entities=1, groups=1)
    batches = StepBatches(OneUnreadable(), 256, config, SCALE, seed=SEED, steps=50)
    steps = prefetch(batches, 0, 1, CPU)
    next(steps)
    with pytest.raises(DataError, match=r"^2\.png: got no image, expected an image; restore it$"):
        list(steps)


def test_batches_go_to_the_device() -> None:
    halves = next(prefetch(tiny_batches(), 0, 0, torch.device("meta")))
    for half in (halves.training, halves.held_out):
        assert {value.device.type for value in vars(half).values() if value is not None} == {"meta"}
