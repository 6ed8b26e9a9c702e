"""Products of matrices that have the right shape and no values, for tracing needs no more.

A processor without float16 arithmetic takes minutes for those of one encoder.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["shapes_alone"]


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Let `torch.mm`, `torch.addmm` and `torch.bmm` compute nothing while the block runs.

    Their kernels for the CPU are replaced, beneath the tracer, which records them as ever. All
    threads of the process see it, so nothing else may compute meanwhile.
    """
    with torch.library._scoped_library("aten", "IMPL") as library, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a kernel is replaced
        library.impl("mm", _mm, "CPU")
        library.impl("addmm", _addmm, "CPU")
        library.impl("bmm", _bmm, "CPU")
        yield


def _mm(left: Tensor, right: Tensor) -> Tensor:
    return left.narrow(1, 0, 1) + right.narrow(0, 0, 1)


def _addmm(bias: Tensor, left: Tensor, right: Tensor, **_: object) -> Tensor:
    return bias + _mm(left, right)


def _bmm(left: Tensor, right: Tensor) -> Tensor:
    return left.narrow(2, 0, 1) + right.narrow(1, 0, 1)
