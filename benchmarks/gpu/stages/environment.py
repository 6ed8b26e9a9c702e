"""Versions and clocks, and the machine's two limits: copy bandwidth and rate of matrix products."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import torch

from benchmarks.gpu.stage import StageContext

__all__ = ["measure"]

PACKAGES: Final = ("torchvision", "numpy", "onnx", "onnxruntime", "triton", "segment-anything")
CLOCKS: Final = {
    "driver_version": "driver",
    "clocks.sm": "sm_mhz",
    "clocks.mem": "memory_mhz",
    "clocks.max.sm": "sm_limit_mhz",
    "power.draw": "power_w",
    "power.limit": "power_limit_w",
    "temperature.gpu": "temperature",
}
LOAD_S: Final = 1.0
"""Seconds of matrix products during which the clocks are read."""
SIDE, QUICK_SIDE = 8192, 128
COPIED, QUICK_COPIED = 2**31, 2**26
"""Bytes that one copy reads, well beyond the caches."""


def measure(context: StageContext) -> Iterator[dict[str, Any]]:
    """Yield versions, clocks at rest and under load, bandwidths and rates."""
    yield _versions(context)
    yield from _clocks("clocks at rest", context)
    yield _copy(context)
    yield from _transfers(context)
    for dtype, tf32 in (
        (torch.bfloat16, False),
        (torch.float16, False),
        (torch.float32, True),
        (torch.float32, False),
    ):
        if not tf32 or context.device.type == "cuda":
            yield from _product(context, dtype, tf32)
    yield _launch(context)


def _versions(context: StageContext) -> dict[str, Any]:
    record: dict[str, Any] = {"case": "versions", "python": platform.python_version()}
    record |= {"torch": torch.__version__, "cuda": torch.version.cuda or "none"}
    for name in PACKAGES:
        try:
            record[name] = version(name)
        except PackageNotFoundError:
            record[name] = "none"
    if context.device.type == "cuda":
        properties = torch.cuda.get_device_properties(context.device)
        record |= {
            "gpu": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gib": properties.total_memory / 2**30,
            "cudnn": torch.backends.cudnn.version(),
        }
    return record


def _clocks(case: str, context: StageContext) -> Iterator[dict[str, Any]]:
    """Read nvidia-smi; fields that a card does not report are left out."""
    if context.device.type != "cuda":
        return
    query = [f"--query-gpu={','.join(CLOCKS)}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        answer = subprocess.run(
            ["nvidia-smi", *query], capture_output=True, check=True, text=True, timeout=10
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        yield {"case": case, "skipped": f"nvidia-smi: {error}"}
        return
    record: dict[str, Any] = {"case": case}
    for name, field in zip(CLOCKS.values(), answer.split(","), strict=True):
        try:
            record[name] = float(field)
        except ValueError:
            record[name] = field.strip()
    yield record


def _copy(context: StageContext) -> dict[str, Any]:
    """Copy within the device's memory; bytes read and bytes written count."""
    size = QUICK_COPIED if context.quick else COPIED
    source = torch.empty(size, dtype=torch.uint8, device=context.device).fill_(1)
    target = torch.empty_like(source)
    took = context.seconds(lambda: target.copy_(source))
    return {"case": "copy", "copy_ms": 1e3 * took, "moved_gbps": 2 * size / took / 1e9}


def _transfers(context: StageContext) -> Iterator[dict[str, Any]]:
    """Copy between the host's pinned memory and the GPU."""
    if context.device.type != "cuda":
        yield {"case": "copy from the host", "skipped": "no GPU"}
        return
    size = QUICK_COPIED if context.quick else COPIED // 8
    host = torch.empty(size, dtype=torch.uint8, pin_memory=True).fill_(1)
    device = torch.empty(size, dtype=torch.uint8, device=context.device)
    for case, source, target in (
        ("copy from the host", host, device),
        ("copy to the host", device, host),
    ):
        took = context.seconds(lambda t=target, s=source: t.copy_(s, non_blocking=True))  # type: ignore[misc]
        yield {"case": case, "copy_ms": 1e3 * took, "transferred_gbps": size / took / 1e9}


def _product(context: StageContext, dtype: torch.dtype, tf32: bool) -> Iterator[dict[str, Any]]:
    """Multiply square matrices of random numbers, which draw more power than zeros."""
    side = QUICK_SIDE if context.quick else SIDE
    left, right = (
        torch.randn(side, side, device=context.device, dtype=dtype) / side for _ in range(2)
    )
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    took = context.seconds(lambda: left @ right)
    torch.set_float32_matmul_precision("highest")
    if dtype is torch.bfloat16 and context.device.type == "cuda":
        # Issued without waiting, so that the GPU is at work when its clocks are read.
        for _ in range(int(LOAD_S / took)):
            torch.mm(left, right)
        yield from _clocks("clocks under load", context)
        context.synchronize()
    name = "tf32" if tf32 else str(dtype).removeprefix("torch.")
    yield {
        "case": f"matrix product, {name}",
        "dtype": name,
        "side": side,
        "product_ms": 1e3 * took,
        "rate_tflops": 2 * side**3 / took / 1e12,
    }


def _launch(context: StageContext) -> dict[str, Any]:
    """Time an operator on a single number: what a call costs that computes nothing."""
    number, calls = torch.zeros(1, device=context.device), 1000

    def repeat() -> None:
        for _ in range(calls):
            number.add_(1)

    return {"case": "smallest operator", "call_us": 1e6 * context.seconds(repeat) / calls}
