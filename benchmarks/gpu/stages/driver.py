"""The export's own calls of the CUDA driver, against the real driver and beside torch.

Engines run on `export.engines.cuda_driver.Device`, which elsewhere has met a stand-in only, whose
memory is the host's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import torch

from benchmarks.gpu.stage import StageContext
from cpcsam.errors import CpcSamError, ExportError
from cpcsam.gpu import tensorrt_version, visible_gpus
from export.engines.cuda_driver import Device

__all__ = ["measure"]

SIZE, QUICK_SIZE = 2**28, 2**20
TOO_MUCH: Final = 2**50


def measure(context: StageContext) -> Iterator[dict[str, Any]]:
    """Yield whether each promise of the driver's calls holds, and the speed of its copies."""
    yield _detected(context)
    try:
        device = Device()
    except ExportError as error:
        yield {"case": "driver", "skipped": str(error)}
        return
    with device:
        yield from _copies(context, device)
        yield _checked("more memory than there is, refused by name", lambda: _refused(device))
        yield _checked("memory is given back", lambda: _given_back(device, context))
        if context.device.type == "cuda":
            yield _checked("torch's memory, read by the driver", lambda: _reads_torch(device))
            yield _checked("torch's work on the stream, waited for", lambda: _waits(device))
    yield _checked("a second device after the first", _second)


def _detected(context: StageContext) -> dict[str, Any]:
    record: dict[str, Any] = {"case": "detection"}
    try:
        gpus = visible_gpus()
    except CpcSamError as error:
        return {**record, "skipped": str(error)}
    record["gpus"] = "; ".join(f"{gpu.name}, {gpu.compute_capability}" for gpu in gpus) or "none"
    record["tensorrt"] = tensorrt_version() or "none"
    if context.device.type == "cuda":
        capability = ".".join(map(str, torch.cuda.get_device_capability(context.device)))
        record["agrees"] = bool(gpus) and gpus[0].compute_capability == capability
    return record


def _checked(case: str, check: Callable[[], bool]) -> dict[str, Any]:
    """Run a check; an error of the project is its result, and any other fails the stage."""
    try:
        return {"case": case, "holds": check()}
    except CpcSamError as error:
        return {"case": case, "holds": False, "error": str(error)}


def _copies(context: StageContext, device: Device) -> Iterator[dict[str, Any]]:
    """Copy random bytes to the GPU and back, from memory that is not pinned."""
    size = QUICK_SIZE if context.quick else SIZE
    sent = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    received = np.zeros_like(sent)
    address = device.allocate(size)
    for case, copy in (
        ("upload", lambda: device.upload(address, sent)),
        ("download", lambda: device.download(address, received)),
    ):
        took = context.seconds(copy, repeats=5)
        yield {"case": case, "copy_ms": 1e3 * took, "transferred_gbps": size / took / 1e9}
    device.free(address)
    yield {"case": "bytes come back as they were", "holds": bool((sent == received).all())}
    strided = np.arange(64, dtype=np.float32).reshape(8, 8).T
    address = device.allocate(strided.nbytes)
    device.upload(address, strided)
    back = np.zeros((8, 8), np.float32)
    device.download(address, back)
    device.free(address)
    yield {"case": "a transposed array too", "holds": bool((strided == back).all())}


def _refused(device: Device) -> bool:
    try:
        device.allocate(TOO_MUCH)
    except ExportError as error:
        return "cuMemAlloc" in str(error) and "memory" in str(error)
    return False


def _given_back(device: Device, context: StageContext) -> bool:
    """Allocate a quarter of the GPU, sixteen times over."""
    size = QUICK_SIZE
    if context.device.type == "cuda":
        size = torch.cuda.get_device_properties(context.device).total_memory // 4
    for _ in range(16):
        device.free(device.allocate(size))
    return True


def _reads_torch(device: Device) -> bool:
    """Read a tensor by its address: torch works in the primary context too."""
    tensor = torch.arange(1000, device="cuda", dtype=torch.float32)
    torch.cuda.synchronize()
    array = np.zeros(1000, np.float32)
    device.download(tensor.data_ptr(), array)
    return bool((array == tensor.cpu().numpy()).all())


def _waits(device: Device) -> bool:
    """Compute on the device's stream by torch, then synchronise by the driver and read."""
    stream = torch.cuda.ExternalStream(device.stream)
    left = torch.ones(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for _ in range(20):
            left = left @ torch.full_like(left, 1 / 4096)
        total = left.sum()
    device.synchronize()
    array = np.zeros(1, np.float32)
    device.download(total.data_ptr(), array)
    return stream.query() and bool(np.isclose(array[0], 4096**2, rtol=1e-3))


def _second() -> bool:
    with Device() as device:
        address = device.allocate(ctypes.sizeof(ctypes.c_double))
        device.upload(address, np.array([2.5]))
        array = np.zeros(1)
        device.download(address, array)
        device.free(address)
    return float(array[0]) == 2.5
