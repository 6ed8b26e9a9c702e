"""TensorRT runtime: run a plan on numpy arrays, through the API shared by TensorRT 10, 11 and RTX.

Polygraphy's TrtRunner is not used: it stays on a single profile, where Triton chooses one for each
call, and needs libcudart and Polygraphy itself in the Triton image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpcsam.contract import GraphSpec
from cpcsam.errors import CpcSamError, ExportError
from export.engines.cuda_driver import Device
from export.engines.profiles import Profile, ShapeRange, nearest_profile

__all__ = ["PlanExecution"]

Arrays = Mapping[str, NDArray[Any]]


class PlanExecution:
    """A plan on a GPU; every call uses the profile that Triton would choose for its shapes."""

    def __init__(self, trt: ModuleType, device: Device, file: Path, graph: GraphSpec) -> None:
        """Load a plan.

        Args:
            trt: the module `tensorrt`, of the version that built the plan.
            device: GPU of the architecture that the plan was built for.
            file: the plan.
            graph: specification of the graph.

        Raises:
            ExportError: this TensorRT or GPU rejects the plan.
        """
        self._trt, self._device, self._graph = trt, device, graph
        self._log = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(file.read_bytes())
        # Both calls return None instead of raising; the logger has printed the reason.
        context = self._engine and self._engine.create_execution_context()
        if context is None:
            raise ExportError.of(
                str(file),
                got="a plan that cannot be loaded, for the reason logged above",
                expected=f"one for TensorRT {trt.__version__} and this GPU",
                fix="build the engines where they are served: make engines",
            )
        self._context = context
        self._profiles = tuple(map(self._profile, range(self._engine.num_optimization_profiles)))
        self._selected_profile = 0

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run the graph.

        Args:
            inputs: by name, with the contract's shapes and dtypes.

        Returns:
            Outputs by name, with the contract's shapes and dtypes.

        Raises:
            ExportError: no profile fits these shapes, or TensorRT fails.
        """
        self._select_profile({name: array.shape for name, array in inputs.items()})
        outputs = self._make_outputs()
        with self._on_device({**inputs, **outputs}) as addresses:
            for name, array in inputs.items():
                self._device.upload(addresses[name], array)
            for name, address in addresses.items():
                self._require(self._context.set_tensor_address(name, address), f"address of {name}")
            self._require(self._context.execute_async_v3(self._device.stream), "execution")
            self._device.synchronize()
            for name, array in outputs.items():
                self._device.download(addresses[name], array)
        return outputs

    def _profile(self, index: int) -> Profile:
        return {
            name: ShapeRange(*map(tuple, self._engine.get_tensor_profile_shape(name, index)))
            for name in self._graph.input_names
        }

    def _select_profile(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        index = nearest_profile(self._profiles, shapes)
        if index is None:
            got = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise self._failure(f"inputs of {got}", "shapes within a profile")
        if index != self._selected_profile:
            stream = self._device.stream
            switched = self._context.set_optimization_profile_async(index, stream)
            self._require(switched, f"profile {index}")
            self._device.synchronize()
            self._selected_profile = index
        # Switching profiles discards the shapes, so they are set for every call.
        for name, shape in shapes.items():
            self._require(self._context.set_input_shape(name, shape), f"shape of {name}")

    def _make_outputs(self) -> dict[str, NDArray[Any]]:
        """Allocate output arrays of the shapes that TensorRT infers from the inputs."""
        missing = self._context.infer_shapes()
        self._require(not missing, f"shapes of {missing}")
        return {
            name: np.empty(
                tuple(self._context.get_tensor_shape(name)),
                self._trt.nptype(self._engine.get_tensor_dtype(name)),
            )
            for name in self._graph.output_names
        }

    @contextmanager
    def _on_device(self, arrays: Arrays) -> Iterator[dict[str, int]]:
        """Allocate device memory for arrays; yield the addresses by name."""
        addresses: dict[str, int] = {}
        try:
            for name, array in arrays.items():
                addresses[name] = self._device.allocate(array.nbytes)
            yield addresses
        finally:
            for address in addresses.values():
                self._device.free(address)

    def _require(self, done: object, what: str) -> None:
        if not done:
            raise self._failure(f"a refusal, logged above, of the {what}", "outputs")

    def _failure(self, got: str, expected: str) -> CpcSamError:
        return ExportError.of(
            f"plan of {self._graph.name}",
            got=got,
            expected=expected,
            fix="build the engines again: make engines",
        )
