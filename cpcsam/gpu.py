"""The NVIDIA GPUs that this machine shows, and the TensorRT that it has, without CUDA bindings."""

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
    """A GPU: what the driver calls it, and its architecture, such as `8.9`."""

    name: str
    compute_capability: str


def visible_gpus() -> tuple[Gpu, ...]:
    """GPUs that the driver shows to this process; none where there is no driver.

    Raises:
        CpcSamError: there is a driver, but it does not answer.
    """
    try:
        asked = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ()
    if asked.returncode:
        raise CpcSamError.of(
            "nvidia-smi",
            got=f"exit status {asked.returncode} ({(asked.stdout or asked.stderr).strip()})",
            expected="the GPUs of this machine",
            fix="mend the driver; in a container, run it with the NVIDIA runtime",
        )
    fields = (line.rsplit(",", 1) for line in asked.stdout.splitlines() if line.strip())
    return tuple(Gpu(name.strip(), capability.strip()) for name, capability in fields)


def tensorrt_version(libraries: Sequence[str] = TENSORRT) -> str | None:
    """Version of the first library that loads, as in `10.13.3`; None where none does."""
    for name in libraries:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        number = library.getInferLibVersion()
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    return None
