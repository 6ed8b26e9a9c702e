"""GPU memory and a stream through the CUDA driver API, loaded with ctypes.

The driver's library is present wherever its GPU is usable, so the serving image needs neither
CUDA's Python bindings nor torch. TensorRT works in the device's primary context, which is made
current.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from cpcsam.errors import CpcSamError, ExportError

__all__ = ["Device"]

DRIVER: Final = "libcuda.so.1"
ALIGNED: Final = 0
"""Flag of a blocking stream: it is ordered with the copies, which run in the default stream."""


class Device:
    """A GPU with its primary context; a context manager that releases them.

    Attributes:
        stream: CUDA stream handle for TensorRT.
    """

    def __init__(self, index: int = 0) -> None:
        """Retain the primary context of a GPU and create a stream.

        Args:
            index: number of the GPU among the visible devices.

        Raises:
            ExportError: there is no driver, or no such GPU.
        """
        self._cuda = _open_driver()
        # Entry points with `_v2` below are those with 64-bit addresses.
        self._call("cuInit", 0)
        device, context, stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), index)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._call("cuStreamCreate", ctypes.byref(stream), ALIGNED)
        self._device = device
        self.stream = int(stream.value or 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._call("cuStreamDestroy_v2", ctypes.c_void_p(self.stream))
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes and return their device address; `free` releases them.

        Raises:
            ExportError: out of memory.
        """
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def free(self, address: int) -> None:
        """Release memory from `allocate`."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Copy an array to the GPU, synchronously."""
        contiguous = np.ascontiguousarray(array)
        source = ctypes.c_void_p(contiguous.ctypes.data)
        size = ctypes.c_size_t(contiguous.nbytes)
        self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), source, size)

    def download(self, address: int, array: NDArray[Any]) -> None:
        """Copy from the GPU into a contiguous array, after all work issued before."""
        target, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        self._call("cuMemcpyDtoH_v2", target, ctypes.c_uint64(address), size)

    def synchronize(self) -> None:
        """Wait until the stream is idle.

        Raises:
            ExportError: a kernel failed.
        """
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code:
            raise self._failure(name, code)

    def _failure(self, name: str, code: int) -> CpcSamError:
        text = ctypes.c_char_p()
        self._cuda.cuGetErrorString(code, ctypes.byref(text))
        return ExportError.of(
            f"the GPU's driver, {name}",
            got=f"error {code} ({(text.value or b'unknown').decode()})",
            expected="success",
            fix="free the GPU's memory, or check the GPU with nvidia-smi",
        )


def _open_driver() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(DRIVER)
    except OSError as error:
        raise ExportError.of(
            "the GPU's driver",
            got=str(error),
            expected=DRIVER,
            fix="run engines where a GPU is; in a container, docker run --gpus=1",
        ) from error
