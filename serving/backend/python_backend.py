"""Adapter of `serving.backend.step` to Triton's Python backend; imported only by model.py shims."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import triton_python_backend_utils as pb_utils

from cpcsam.errors import ContractError, CpcSamError, ServingError
from cpcsam.text import printable
from serving.backend.step import Answer, Execute, NotStoredError, Request, Settings
from serving.common.memory import reuse_freed_memory

__all__ = ["triton_model"]

MAX_TEXT: Final = 1000


def triton_model(open_step: Callable[[Settings], Execute]) -> type:
    """Make the class `TritonPythonModel` that the Python backend loads from model.py.

    Args:
        open_step: loads and warms the step; a CpcSamError makes the model unavailable.
    """

    class TritonPythonModel:
        def initialize(self, args: dict[str, str]) -> None:
            reuse_freed_memory()
            config = json.loads(args["model_config"])
            settings = Settings(
                name=args["model_name"],
                directory=Path(args["model_repository"]) / args["model_version"],
                parameters={
                    key: value["string_value"] for key, value in config["parameters"].items()
                },
                max_batch=config["max_batch_size"],
            )
            self.input_names = [tensor["name"] for tensor in config["input"]]
            try:
                self.step = open_step(settings)
            except CpcSamError as error:
                raise pb_utils.TritonModelException(str(error)) from None

        def execute(self, requests: Sequence[Any]) -> list[Any]:
            try:
                read = [_request(request, self.input_names) for request in requests]
                return [_response(answer) for answer in self.step(read)]
            except Exception as error:
                # The backend would send the traceback to the caller; it belongs in the log.
                pb_utils.Logger.log_error(traceback.format_exc())
                internal = ServingError(f"{type(error).__name__} in a step; see Triton's log")
                return [_response(internal) for _ in requests]

    return TritonPythonModel


def _request(request: Any, input_names: Sequence[str]) -> Request:
    given = {name: pb_utils.get_input_tensor_by_name(request, name) for name in input_names}
    tensors = {name: tensor.as_numpy() for name, tensor in given.items() if tensor is not None}
    return Request(tensors, frozenset(request.requested_output_names()))


def _response(answer: Answer) -> Any:
    if isinstance(answer, CpcSamError):
        # gRPC carries no more than 8 KiB of it.
        text = printable(str(answer), MAX_TEXT)
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, _code(answer)))
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, a) for name, a in answer.items()])


def _code(error: CpcSamError) -> Any:
    if isinstance(error, NotStoredError):
        return pb_utils.TritonError.NOT_FOUND
    if isinstance(error, ContractError):
        return pb_utils.TritonError.INVALID_ARG
    return pb_utils.TritonError.INTERNAL
