"""Sizes of Triton's memory pools, computed from the tensor contract.

Triton keeps the tensors that pass from step to step of an ensemble in a pool of each GPU, and what
travels between host and GPU in a pool of pinned memory. When a pool is full, Triton logs it once
and uses slower memory: pinned host memory instead of the GPU's, and pageable instead of pinned.
Its defaults, 64 MiB and 256 MiB, are less than one batch of a model of 1024 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import numpy as np

from cpcsam.contract import (
    IMAGE_ENCODER,
    MAX_IMAGES_TIMES_PROMPTS,
    POINT_BUCKETS,
    GraphSpec,
    TensorSpec,
    graphs_of,
)

__all__ = ["DEFAULT_CUDA_BYTES", "DEFAULT_PINNED_BYTES", "memory_pool_options", "memory_pools"]

DEFAULT_CUDA_BYTES: Final = 64 << 20
DEFAULT_PINNED_BYTES: Final = 256 << 20
NOTHING_PINNED: Final = "--pinned-memory-pool-byte-size=0"
BATCHES: Final = 2
"""Batches of each graph at a time: one is computed while the next step takes the other."""
LARGEST: Final = {"P": 1, "N": POINT_BUCKETS[-1], "N+1": POINT_BUCKETS[-1] + 1}


def memory_pool_options(image_size: int, gpus: int, *, engines: bool = True) -> list[str]:
    """Return the options of tritonserver for its memory pools.

    Args:
        image_size: side of the model's input in pixels.
        gpus: number of GPUs; without one nothing is pinned, nor are GPUs measured.
        engines: whether TensorRT runs the graphs. The Python backend passes all tensors in the
            host's shared memory.
    """
    if not gpus:
        return [NOTHING_PINNED, "--allow-gpu-metrics=false"]
    if not engines:
        return [NOTHING_PINNED]
    cuda, pinned = memory_pools(image_size)
    pools = [f"--cuda-memory-pool-byte-size={number}:{cuda}" for number in range(gpus)]
    return [f"--pinned-memory-pool-byte-size={pinned}", *pools]


def memory_pools(image_size: int) -> tuple[int, int]:
    """Return the bytes of the pool of each GPU, and of pinned memory.

    Args:
        image_size: side of the model's input in pixels.

    Returns:
        Enough for two of the largest batches of every graph, and at least Triton's defaults.
    """
    graphs = graphs_of(calibrates=True)
    on_gpu = {
        tensor.name
        for graph in graphs
        if graph is not IMAGE_ENCODER
        for tensor in graph.outputs
        if any(tensor in other.inputs for other in graphs)
    }
    outputs = [(graph, tensor) for graph in graphs for tensor in graph.outputs]
    inputs = [(graph, tensor) for graph in graphs for tensor in graph.inputs]
    cuda = _bytes(outputs, image_size)
    pinned = _bytes((pair for pair in inputs + outputs if pair[1].name not in on_gpu), image_size)
    return max(BATCHES * cuda, DEFAULT_CUDA_BYTES), max(BATCHES * pinned, DEFAULT_PINNED_BYTES)


def _bytes(tensors: Iterable[tuple[GraphSpec, TensorSpec]], image_size: int) -> int:
    return sum(_largest(graph, tensor, image_size) for graph, tensor in tensors)


def _largest(graph: GraphSpec, tensor: TensorSpec, image_size: int) -> int:
    """Return the bytes of a tensor in the largest batch of a graph."""
    shape = tensor.shape(image_size)
    images = MAX_IMAGES_TIMES_PROMPTS if "P" in tensor.dims else graph.max_batch
    sizes = (
        size if size >= 0 else LARGEST[str(symbol)]
        for symbol, size in zip(tensor.dims[1:], shape[1:], strict=True)
    )
    return images * math.prod(sizes) * np.dtype(tensor.dtype).itemsize
