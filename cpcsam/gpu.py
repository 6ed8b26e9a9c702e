"""Detection of NVIDIA GPUs and of TensorRT, without CUDA bindings."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cpcsam.errors import CpcSamError

__all__ = ["Gpu", "tensorrt_version", "visible_gpus"]

NVIDIA_SMI: Final = ("nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader")
TENSORRT: Final = ("libnvinfer.so.11", "libnvinfer.so.10")


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name, and its compute capability, such as `8.9`."""

    name: str
    compute_capability: str


def visible_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs visible to this process; none without a driver.

    Raises:
        CpcSamError: there is a driver, but it does not answer.
    """
    try:
        query = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ()
    if query.returncode:
        raise CpcSamError.of(
            "nvidia-smi",
            got=f"exit status {query.returncode} ({(query.stdout or query.stderr).strip()})",
            expected="the GPUs of this machine",
            fix="mend the driver; in a container, run it with the NVIDIA runtime",
        )
    fields = (line.rsplit(",", 1) for line in query.stdout.splitlines() if line.strip())
    return tuple(Gpu(name.strip(), capability.strip()) for name, capability in fields)


def tensorrt_version(libraries: Sequence[str] = TENSORRT) -> str | None:
    """Return the version of the first library that loads, as in `10.13.3`, or None."""
    for name in libraries:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        number = library.getInferLibVersion()
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    return None
