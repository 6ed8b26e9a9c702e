"""Mixed precision: whether a device computes in bfloat16 itself."""

from __future__ import annotations

from typing import Literal

import torch

__all__ = ["Precision", "has_bfloat16", "is_mixed"]

Precision = Literal["auto", "float32", "bfloat16"]


def has_bfloat16(device: torch.device) -> bool:
    """Return whether `device` has bfloat16 instructions.

    Without them PyTorch emulates: on an x86-64 CPU with AVX2 alone, a training step of the compact
    base in bfloat16 takes nine times as long as in float32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def is_mixed(precision: str, device: torch.device) -> bool:
    """Return whether to train on `device` in mixed precision.

    Args:
        precision: "bfloat16", or "auto" for bfloat16 where `device` has it; any other is exact.
        device: that trains.
    """
    return precision == "bfloat16" or (precision == "auto" and has_bfloat16(device))
