"""Process pool for jobs, each on one core."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

import torch
from tqdm import tqdm

__all__ = ["run_here", "run_in_processes"]

J = TypeVar("J")


def run_here(jobs: Sequence[J], work: Callable[[J], str]) -> None:
    """Run jobs one after another in this process, on all cores.

    Args:
        jobs: to run.
        work: runs a job and returns the line that is printed to stderr.
    """
    for job in tqdm(jobs, desc="runs"):
        tqdm.write(work(job), file=sys.stderr)


def run_in_processes(jobs: Sequence[J], work: Callable[[J], str], workers: int) -> None:
    """Run jobs in processes of one thread.

    Args:
        jobs: to run.
        work: runs a job and returns the line that is printed to stderr.
        workers: number of processes.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_use_one_thread) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        for future in tqdm(as_completed(futures), total=len(futures), desc="runs"):
            tqdm.write(future.result(), file=sys.stderr)


def _use_one_thread() -> None:
    torch.set_num_threads(1)
