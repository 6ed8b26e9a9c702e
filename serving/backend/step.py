"""Interface of the Python models in the Triton repository, independent of Triton."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cpcsam.entry_points import STEP_TIMES
from cpcsam.errors import ConfigError, CpcSamError, ServingError

__all__ = [
    "Answer",
    "Execute",
    "NotStoredError",
    "Request",
    "Settings",
    "Tensors",
    "each",
    "together",
]

Tensors: TypeAlias = Mapping[str, NDArray[Any]]
"""Arrays by their contract name, batch first."""

Answer: TypeAlias = Tensors | CpcSamError
"""A request's outputs, or its error."""


class NotStoredError(ServingError):
    """A request names an embedding that is not kept; the caller is to send it."""


@dataclass(frozen=True)
class Request:
    """One request of a model.

    Attributes:
        tensors: every input that was given.
        outputs: names of the requested outputs; others need not be computed.
        marks: times of `time.monotonic` that part the work on it, in order.
    """

    tensors: Tensors
    outputs: frozenset[str]
    marks: list[float] = field(default_factory=list, compare=False)


Execute: TypeAlias = Callable[[Sequence[Request]], Sequence[Answer]]
"""Executes a batch of requests; one answer a request, in order."""


@dataclass(frozen=True)
class Settings:
    """Configuration of a model of the repository.

    Attributes:
        name: the model's name, also that of its graph in the contract.
        directory: the folder of the loaded version, which holds its files.
        parameters: `parameters` of its config.pbtxt.
        max_batch: largest number of images that it is given at once.
    """

    name: str
    directory: Path
    parameters: Mapping[str, str]
    max_batch: int = 1

    def integer(self, key: str) -> int:
        """Return a parameter as an integer.

        Raises:
            ConfigError: it is missing or not an integer.
        """
        text = self.parameters.get(key)
        try:
            return int(str(text))
        except ValueError as error:
            raise ConfigError.of(
                f"{self.name}/config.pbtxt, parameter {key}",
                got="nothing" if text is None else repr(text),
                expected="an integer",
                fix="generate the repository again",
            ) from error


def each(answer: Callable[[Request], Tensors], threads: int = 1) -> Execute:
    """Make an `Execute` that handles each request by itself, isolates their errors and times them.

    Args:
        answer: handles one request.
        threads: number of requests that are handled at a time.
    """
    attempt = partial(_attempt, answer)
    if threads == 1:
        return lambda requests: list(map(attempt, requests))
    pool = ThreadPoolExecutor(threads)

    def execute(requests: Sequence[Request]) -> list[Answer]:
        return list(pool.map(attempt, requests)) if len(requests) > 1 else [attempt(requests[0])]

    return execute


def together(answer: Callable[[Request], Tensors]) -> Execute:
    """Make an `Execute` that joins the requests of a batch and times them; an error is that of all.

    Args:
        answer: handles a request of any number of images.
    """

    def execute(requests: Sequence[Request]) -> list[Answer]:
        if len(requests) == 1:
            return [_attempt(answer, requests[0])]
        names = requests[0].tensors
        tensors = {name: np.concatenate([r.tensors[name] for r in requests]) for name in names}
        outputs = frozenset().union(*(request.outputs for request in requests))
        joined = _attempt(answer, Request(tensors, outputs))
        if isinstance(joined, CpcSamError):
            return [joined for _ in requests]
        sizes = [len(request.tensors[next(iter(names))]) for request in requests]
        ends = np.cumsum(sizes)
        return [
            {
                # The times of a batch are those of each of its requests.
                name: array if name == STEP_TIMES.name else array[end - size : end]
                for name, array in joined.items()
                if name in request.outputs
            }
            for request, size, end in zip(requests, sizes, ends, strict=True)
        ]

    return execute


def _attempt(answer: Callable[[Request], Tensors], request: Request) -> Answer:
    started = monotonic()
    try:
        tensors = answer(request)
    except CpcSamError as error:
        return error
    if STEP_TIMES.name not in request.outputs:
        return tensors
    times = np.array([[started, *request.marks, monotonic()]], STEP_TIMES.dtype)
    return {**tensors, STEP_TIMES.name: times}
