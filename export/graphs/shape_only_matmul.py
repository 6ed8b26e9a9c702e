"""Shape-only matmul kernels: tracing records operators and shapes, never values.

A processor without float16 arithmetic takes minutes for the products of an encoder.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["shape_only_matmul"]


@contextmanager
def shape_only_matmul() -> Iterator[None]:
    """Replace the CPU matmul kernels by shape-only stubs while tracing.

    `torch.mm`, `torch.addmm` and `torch.bmm` return tensors of the right shape and dtype with
    meaningless values. The stubs lie beneath the tracer, which records the operators as usual. The
    replacement is process-wide: no other thread may compute inside the block.
    """
    with torch.library._scoped_library("aten", "IMPL") as library, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns of every replaced kernel
        library.impl("mm", _mm, "CPU")
        library.impl("addmm", _addmm, "CPU")
        library.impl("bmm", _bmm, "CPU")
        yield


# Broadcasting a column over a row gives the product's shape and dtype at the cost of an addition.
def _mm(left: Tensor, right: Tensor) -> Tensor:
    return left.narrow(1, 0, 1) + right.narrow(0, 0, 1)


def _addmm(bias: Tensor, left: Tensor, right: Tensor, **_: object) -> Tensor:
    return bias + _mm(left, right)


def _bmm(left: Tensor, right: Tensor) -> Tensor:
    return left.narrow(2, 0, 1) + right.narrow(1, 0, 1)
