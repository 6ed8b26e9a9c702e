"""Prefetching of a run's batches by worker processes, in the order of its steps."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from typing import Protocol, Self, TypeVar

import torch
from torch.utils.data import DataLoader

from cpcsam.errors import CpcSamError, TrainingError

__all__ = ["Batch", "Batches", "prefetch"]


class _Movable(Protocol):
    def to(self, device: torch.device) -> Self:
        """Move to a device."""


Batch = TypeVar("Batch", bound=_Movable)
Drawn = TypeVar("Drawn", bound=_Movable, covariant=True)


class Batches(Protocol[Drawn]):
    """Batches of a run, each decided by its step alone."""

    def __len__(self) -> int:
        """Return the number of steps of the run."""

    def __getitem__(self, index: int) -> Drawn:
        """Draw a step's batch."""


def prefetch(
    batches: Batches[Batch], start: int, workers: int, device: torch.device
) -> Iterator[Batch]:
    """Prefetch batches: yield those of steps `start` and on.

    Args:
        batches: of the whole run.
        start: steps already done.
        workers: processes that prefetch; 0 draws batches in this process.
        device: of the yielded batches.

    Raises:
        DataError: a batch cannot be drawn.
        TrainingError: a worker died.
    """
    if start < len(batches):
        batches[start]  # what cannot be drawn at all is refused before workers start
    before = signal.getsignal(signal.SIGCHLD)
    iterator = iter(
        DataLoader(
            batches,  # type: ignore[arg-type]  # a Dataset in all but name
            batch_size=None,
            sampler=range(start, len(batches)),
            num_workers=workers,
            # DataLoader refuses a prefetch factor without workers.
            prefetch_factor=2 if workers else None,
            worker_init_fn=_leave_to_parent,
        )
    )
    if workers:  # torch's handler would raise anywhere, even in the middle of a write
        signal.signal(signal.SIGCHLD, before)
    while True:
        try:
            batch = next(iterator, None)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker (pid"):
                raise
            raise TrainingError.of(
                "a process that prepares batches",
                got=str(error).removeprefix("DataLoader worker "),
                expected="it to live as long as the training",
                fix="memory may have run out: lower workers or batch.images; resume=true goes on",
            ) from error
        except CpcSamError as error:
            message = str(error)
            if not message.startswith("Caught "):
                raise
            # a worker's error comes with its traceback as text, whose last line is the message
            raise type(error)(message.splitlines()[-1].partition(": ")[2]) from error
        if batch is None:
            return
        yield batch.to(device)


def _leave_to_parent(_: int) -> None:
    """Leave to the parent what is its own: signals, and the garbage that it had not collected.

    torchrun and schedulers send SIGTERM to the whole process group; the first one is ignored.
    """
    # A destructor may wait for a thread, which a fork does not take along, for ever.
    gc.freeze()
    # Workers run next to the training, whose threads already use the cores.
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
