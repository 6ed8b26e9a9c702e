"""TensorRT's Python module, if there is one."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Final

from cpcsam.errors import ConfigError

__all__ = ["find_tensorrt", "require_tensorrt"]

MODULES: Final = ("tensorrt", "tensorrt_bindings")
"""TensorRT, and its bindings alone where the libraries are installed without them."""


def find_tensorrt() -> ModuleType | None:
    """TensorRT if it can be imported."""
    return _find()[0]


def require_tensorrt() -> ModuleType:
    """Import TensorRT.

    Raises:
        ConfigError: it cannot be imported.
    """
    trt, reason = _find()
    if trt is None:
        raise ConfigError.of(
            "TensorRT",
            got=reason,
            expected="its Python module",
            fix="install it, or leave --here out to use the Triton image",
        )
    return trt


def _find() -> tuple[ModuleType | None, str]:
    """TensorRT, else why not."""
    reasons = []
    for name in MODULES:
        try:
            return import_module(name), ""
        except ImportError as error:
            reasons.append(str(error))
    return None, "; ".join(reasons)
