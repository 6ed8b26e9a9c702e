"""Several processes that train one model, as torchrun starts them.

Every process takes its share of a batch's images, and the gradients are averaged, so that the
weights are those of one process. DistributedDataParallel would not average them: its hooks fire
when `backward` fills a module's own parameters, while the bi-level loop takes gradients by
`torch.autograd.grad`, for θ and φ in turn and through `functional_call`. One explicit all_reduce
for each update is shorter, and exact because every loss is a mean over images.

In a single process the functions return what they are given, and nothing is communicated.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from cpcsam.errors import ConfigError, TrainingError

__all__ = [
    "average_",
    "barrier",
    "gather",
    "is_main",
    "largest",
    "part",
    "process_count",
    "process_group",
    "process_rank",
    "training_device",
]

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others, of which one may be writing a large checkpoint."""


def process_count() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Tell whether this is the process that writes files and speaks to the user."""
    return process_rank() == 0


def training_device() -> torch.device:
    """Choose the GPU of this process's local rank, or the CPU where there is no GPU.

    Raises:
        ConfigError: more processes than GPUs on this machine.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local_rank, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local_rank >= gpus:
        raise ConfigError.of(
            "processes on this machine",
            got=f"at least {local_rank + 1}",
            expected=f"at most {gpus}, one for each GPU",
            fix=f"set torchrun's --nproc-per-node to {gpus}",
        )
    return torch.device("cuda", local_rank)


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun announces in the environment, if it does.

    Leaving without an error waits for all: where one ends with a code other than 0, as after an
    interrupt, torchrun kills the rest, and the main one may not have told the user yet.

    Raises:
        ConfigError: WORLD_SIZE is set, but not the rest of torchrun's environment.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    device = training_device()
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            "nccl" if on_gpu else "gloo", timeout=PATIENCE, device_id=device if on_gpu else None
        )
    except (RuntimeError, ValueError) as error:
        raise ConfigError.of(
            "WORLD_SIZE",
            got=f"{os.environ['WORLD_SIZE']} processes that cannot meet ({_first_line(error)})",
            expected="torchrun's environment",
            fix="start with torchrun, or unset WORLD_SIZE",
        ) from error
    try:
        yield
        barrier()
    finally:
        dist.destroy_process_group()


def part(length: int) -> slice:
    """Which of so many things in a row this process takes; the parts follow one another."""
    rank, count = process_rank(), process_count()
    return slice(length * rank // count, length * (rank + 1) // count)


def average_(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their means over the processes, in place, in one all_reduce.

    Raises:
        TrainingError: another process is gone.
    """
    if process_count() == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    with _all_needed():
        dist.all_reduce(flat)
    flat /= process_count()
    for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def largest(*values: float) -> list[float]:
    """Return the largest of each value over the processes, the same in all of them.

    Raises:
        TrainingError: another process is gone.
    """
    if process_count() == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64, device=training_device())
    with _all_needed():
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return [float(value) for value in tensor]


def gather(items: list[T]) -> list[T]:
    """Return the items of all processes in the order of their ranks, in every process.

    Raises:
        TrainingError: another process is gone.
    """
    if process_count() == 1:
        return items
    parts: list[list[T]] = [[] for _ in range(process_count())]
    with _all_needed():
        dist.all_gather_object(parts, items)
    return [item for items in parts for item in items]


def barrier() -> None:
    """Wait until every process is here.

    Raises:
        TrainingError: another process is gone.
    """
    if process_count() > 1:
        with _all_needed():
            dist.barrier()


@contextmanager
def _all_needed() -> Iterator[None]:
    """Tell in one line that another process is gone; torch raises a bare RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError.of(
            f"process {process_rank()} of {process_count()}",
            got=f"no answer from another ({_first_line(error)})",
            expected="all at the same step",
            fix="see what the first to fail wrote, then go on with resume=true",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
