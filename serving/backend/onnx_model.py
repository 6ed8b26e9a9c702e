"""ONNX Runtime model on the CPU: the requests of a batch run as a single call."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from cpcsam.backends.onnx_backend import open_session
from cpcsam.contract import GRAPHS, GraphSpec, TensorSpec
from cpcsam.errors import CpcSamError, ServingError
from serving.backend.step import Answer, Execute, Request, Settings, Tensors

__all__ = ["MODEL_FILE", "open_graph", "run_together"]

MODEL_FILE: Final = "model.onnx"
DTYPES: Final = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
}

Run = Callable[[Tensors], Tensors]
"""A call of a graph: inputs by name, batch first, to all outputs by name."""


def open_graph(settings: Settings) -> Execute:
    """Load a graph of the contract, check it against its specification and run it once.

    Args:
        settings: the graph's name and folder; parameters image_size and intra_op_threads (0: one
            a core).

    Raises:
        ArtifactError: the file is missing or no ONNX graph.
        ServingError: it is not the graph of the contract.
    """
    graph = next(graph for graph in GRAPHS if graph.name == settings.name)
    image_size = settings.integer("image_size")
    threads = settings.integer("intra_op_threads") or len(os.sched_getaffinity(0))
    session = open_session(settings.directory / MODEL_FILE, threads)
    _check(session, graph, image_size)

    def run(tensors: Tensors) -> Tensors:
        outputs = session.run(graph.output_names, dict(tensors))
        return dict(zip(graph.output_names, outputs, strict=True))

    run({tensor.name: _smallest(tensor, image_size) for tensor in graph.inputs})
    return lambda requests: run_together(run, requests)


def run_together(run: Run, requests: Sequence[Request]) -> list[Answer]:
    """Run requests as one batch and split the outputs.

    Requests whose shapes differ beyond the batch run in groups. If a batch fails, each of its
    requests runs alone, so that only the faulty request gets the error.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, request in enumerate(requests):
        shapes = tuple((name, array.shape[1:]) for name, array in request.tensors.items())
        groups.setdefault(shapes, []).append(index)
    answers: dict[int, Answer] = {}
    for indices in groups.values():
        tensors = [requests[index].tensors for index in indices]
        answers.update(zip(indices, _run_batch(run, tensors), strict=True))
    return [_wanted(answers[index], request) for index, request in enumerate(requests)]


def _run_batch(run: Run, batch: Sequence[Tensors]) -> list[Answer]:
    if len(batch) == 1:
        return [_run_alone(run, batch[0])]
    joined = {name: np.concatenate([tensors[name] for tensors in batch]) for name in batch[0]}
    try:
        outputs = run(joined)
    except Exception:
        logging.getLogger(__name__).exception("a batch of %d failed; running each", len(batch))
        return [_run_alone(run, tensors) for tensors in batch]
    ends = np.cumsum([next(iter(tensors.values())).shape[0] for tensors in batch])[:-1]
    parts = {name: np.split(array, ends) for name, array in outputs.items()}
    return [{name: parts[name][i] for name in parts} for i in range(len(batch))]


def _run_alone(run: Run, tensors: Tensors) -> Answer:
    # ONNX Runtime has no common base for its errors.
    try:
        return run(tensors)
    except Exception as error:
        return ServingError(f"the graph failed: {' '.join(str(error).split())}")


def _wanted(answer: Answer, request: Request) -> Answer:
    if isinstance(answer, CpcSamError):
        return answer
    return {name: array for name, array in answer.items() if name in request.outputs}


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


def _smallest(tensor: TensorSpec, image_size: int) -> NDArray[Any]:
    """Return a minimal input, one image, prompt and point: 1 is a valid size, click and mask."""
    return np.ones([abs(size) for size in tensor.shape(image_size)], tensor.dtype)
