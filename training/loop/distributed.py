"""Data-parallel training in several processes, as torchrun starts them: ranks and collectives.

Every process computes its slice of a batch, and the gradients are averaged by all-reduce, so that
the weights are those of a single process. DistributedDataParallel would not average them: its hooks
fire when `backward` fills a module's own parameters, while the bi-level loop takes gradients by
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
    "all_reduce_mean",
    "barrier",
    "all_gather",
    "is_main",
    "all_reduce_max",
    "rank_slice",
    "process_count",
    "process_group",
    "process_rank",
    "training_device",
]

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)
"""Timeout of collectives: the main process may be writing a large checkpoint."""


def process_count() -> int:
    """Return the world size: the number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_rank() -> int:
    """Return the rank of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Return whether this is the main process, which writes files and reports to the user."""
    return process_rank() == 0


def training_device() -> torch.device:
    """Return the GPU of this process's local rank, or the CPU if there is no GPU.

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
    """Join torchrun's process group if the environment describes one.

    Leaving without an error waits for all: if a process ends with a code other than 0, as after an
    interrupt, torchrun kills the rest, perhaps before the main process has reported to the user.

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


def rank_slice(length: int) -> slice:
    """Return this rank's slice of a sequence; the slices of all ranks are contiguous."""
    rank, count = process_rank(), process_count()
    return slice(length * rank // count, length * (rank + 1) // count)


def all_reduce_mean(tensors: Sequence[Tensor]) -> None:
    """Average tensors over the processes, in place, in a single all-reduce.

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


def all_reduce_max(*values: float) -> list[float]:
    """Return the maximum of each value over the processes, the same in all of them.

    Raises:
        TrainingError: another process is gone.
    """
    if process_count() == 1:
        return list(values)
    # float64 keeps step counts exact; NCCL needs the tensor on a GPU.
    tensor = torch.tensor(values, dtype=torch.float64, device=training_device())
    with _all_needed():
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return [float(value) for value in tensor]


def all_gather(items: list[T]) -> list[T]:
    """Return the items of all processes, in the order of their ranks, in every process.

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
    """Wait until every process has reached this call.

    Raises:
        TrainingError: another process is gone.
    """
    if process_count() > 1:
        with _all_needed():
            dist.barrier()


@contextmanager
def _all_needed() -> Iterator[None]:
    """Turn torch's RuntimeError, raised when another process is gone, into a one-line error."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError.of(
            f"process {process_rank()} of {process_count()}",
            got=f"no answer from another ({_first_line(error)})",
            expected="all at the same step",
            fix="see what the first to fail wrote, then continue with resume=true",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
