"""ONNX graphs in ONNX Runtime, on the CPU or on a GPU as the model's configuration says."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from cpcsam.backends.onnx_backend import PROVIDER, PROVIDERS, Provider, open_session
from cpcsam.contract import GRAPHS, GraphSpec, TensorSpec
from cpcsam.errors import ConfigError, ServingError
from serving.backend.step import Execute, Request, Settings, Tensors, together

__all__ = ["MODEL_FILE", "Run", "load_graph", "open_graph"]

MODEL_FILE: Final = "model.onnx"
DTYPES: Final = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
}

Run = Callable[[Tensors], Tensors]
"""A call of a graph: at least its inputs by name, batch first, to all outputs by name."""


def open_graph(settings: Settings) -> Execute:
    """Open the graph of the contract that has the model's name; see `load_graph`.

    Triton joins requests only up to the batch that the configuration allows.
    """
    graph = next(graph for graph in GRAPHS if graph.name == settings.name)
    run = load_graph(settings, graph, settings.directory / MODEL_FILE, settings.max_batch)
    return together(lambda request: _wanted(run(request.tensors), request))


def load_graph(settings: Settings, graph: GraphSpec, path: Path, max_batch: int = 1) -> Run:
    """Load a graph of the contract, check it against its specification and run it.

    Args:
        settings: parameters image_size, intra_op_threads (0: one a core) and, where the graph is
            to run elsewhere than on the CPU, provider.
        graph: its specification.
        path: its file.
        max_batch: images of the largest batch, which is run too: it may not fit into a GPU.

    Returns:
        A call of it, from any thread; ServingError if it fails.

    Raises:
        ArtifactError: the file is missing or no ONNX graph.
        ConfigError: a parameter is missing or wrong, or the provider cannot be used here.
        ServingError: it is not the graph of the contract, or it fails.
    """
    image_size = settings.integer("image_size")
    threads = settings.integer("intra_op_threads") or len(os.sched_getaffinity(0))
    session = open_session(path, threads, provider=_provider(settings))
    _check(session, graph, image_size)

    def run(tensors: Tensors) -> Tensors:
        feeds = {name: tensors[name] for name in graph.input_names}
        # ONNX Runtime has no common base for its errors.
        try:
            outputs = session.run(graph.output_names, feeds)
        except Exception as error:
            message = " ".join(str(error).split())
            raise ServingError(f"the graph {graph.name} failed: {message}") from error
        return dict(zip(graph.output_names, outputs, strict=True))

    for images in sorted({1, max_batch}, reverse=True):
        run({tensor.name: _ones(tensor, image_size, images) for tensor in graph.inputs})
    return run


def _provider(settings: Settings) -> Provider:
    # Repositories for the CPU have no such parameter.
    stated = settings.parameters.get(PROVIDER, "cpu")
    for provider in PROVIDERS:
        if provider == stated:
            return provider
    raise ConfigError.of(
        f"{settings.name}/config.pbtxt, parameter {PROVIDER}",
        got=repr(stated),
        expected=" or ".join(PROVIDERS),
        fix="generate the repository again",
    )


def _wanted(tensors: Tensors, request: Request) -> Tensors:
    return {name: array for name, array in tensors.items() if name in request.outputs}


def _check(session: onnxruntime.InferenceSession, graph: GraphSpec, image_size: int) -> None:
    """Compare names, element types and fixed dimensions with the contract."""
    for kind, found, expected in (
        ("inputs", session.get_inputs(), graph.inputs),
        ("outputs", session.get_outputs(), graph.outputs),
    ):
        got = {node.name: (DTYPES.get(node.type, node.type), node.shape) for node in found}
        wanted = {tensor.name: (tensor.dtype, tensor.shape(image_size)) for tensor in expected}
        if got.keys() != wanted.keys() or not all(
            got[name][0] == dtype and _fits(got[name][1], shape)
            for name, (dtype, shape) in wanted.items()
        ):
            raise ServingError.of(
                f"{graph.name}, {kind}",
                got=got,
                expected=f"{wanted} (-1 is any size)",
                fix="export it again for this image_size",
            )


def _fits(got: Sequence[int | str | None], expected: Sequence[int]) -> bool:
    """Return whether an ONNX shape, in which a name or None is any size, allows the contract's."""
    return len(got) == len(expected) and all(
        not isinstance(size, int) or size == wanted
        for size, wanted in zip(got, expected, strict=True)
    )


def _ones(tensor: TensorSpec, image_size: int, images: int) -> NDArray[Any]:
    """Return an input of one prompt and point an image: 1 is a valid size, click and mask."""
    return np.ones([images, *map(abs, tensor.shape(image_size)[1:])], tensor.dtype)
