"""Stand-in for TensorRT's runtime, which needs a GPU: plans name ONNX graphs that run on the CPU.

It has only the calls of `export.engines.runtime`, under TensorRT's names and as strict: shapes
must fit a profile, addresses must be set, and the stream must exist. A test compares the names with
those of TensorRT-RTX, whose module can be imported without a GPU.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

__version__ = "10.0.0.stand-in"
Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, severity: None})
print("a banner, as libraries print them")


def plan(
    onnx: Path, profiles: list[dict[str, list[list[int]]]], shift: dict[int, float] | None = None
) -> bytes:
    """Serialize a plan of a graph; `shift`, by profile, is added to the first output."""
    settings = {"onnx": str(onnx.resolve()), "profiles": profiles, "shift": shift or {}}
    return json.dumps(settings).encode()


def nptype(dtype: str) -> type:
    return {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8}[
        dtype
    ]


class Runtime:
    def __init__(self, logger: Any) -> None:
        assert isinstance(logger, Logger)

    def deserialize_cuda_engine(self, content: bytes) -> ICudaEngine | None:
        return ICudaEngine(json.loads(content)) if content.startswith(b"{") else None


class ICudaEngine:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            settings["onnx"], options, providers=["CPUExecutionProvider"]
        )
        nodes = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.types = {node.name: node.type for node in nodes}
        self.num_optimization_profiles = len(settings["profiles"])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
        return self.settings["profiles"][profile_index][name]

    def get_tensor_dtype(self, name: str) -> str:
        return self.types[name]

    def create_execution_context(self) -> IExecutionContext:
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self.engine, self.profile = engine, 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.profile, self.shapes = profile_index, {}
        return stream_handle > 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.get_tensor_profile_shape(name, self.profile)
        self.shapes[name] = shape
        return all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))

    def infer_shapes(self) -> list[str]:
        return [node.name for node in self._inputs() if node.name not in self.shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an output, whose symbolic dimensions are those of the inputs."""
        sizes = {"N+1": 0}
        for node in self._inputs():
            sizes |= dict(zip(node.shape, self.shapes[node.name], strict=True))
        sizes["N+1"] = sizes["N+1"] or sizes.get("N", 0) + 1
        [output] = [node for node in self._outputs() if node.name == name]
        return tuple(dim if isinstance(dim, int) else sizes[dim] for dim in output.shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return name in self.engine.types

    def execute_async_v3(self, stream_handle: int) -> bool:
        feeds = {
            node.name: self._array(node.name, self.shapes[node.name]) for node in self._inputs()
        }
        outputs = self.engine.session.run(None, feeds)
        outputs[0] = outputs[0] + np.float32(
            self.engine.settings["shift"].get(str(self.profile), 0)
        )
        for node, output in zip(self._outputs(), outputs, strict=True):
            self._array(node.name, self.get_tensor_shape(node.name))[...] = output
        return stream_handle > 0

    def _inputs(self) -> list[Any]:
        return list(self.engine.session.get_inputs())

    def _outputs(self) -> list[Any]:
        return list(self.engine.session.get_outputs())

    def _array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return the memory at a tensor's address as an array."""
        dtype = np.dtype(nptype(self.engine.types[name]))
        size = int(np.prod(shape)) * dtype.itemsize
        memory = (ctypes.c_char * size).from_address(self.addresses[name])
        return np.frombuffer(memory, dtype).reshape(shape)
