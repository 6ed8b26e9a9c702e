"""Import of TensorRT or TensorRT-RTX, whichever Python modules are installed."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Final

from cpcsam.errors import ConfigError

__all__ = ["find_tensorrt", "require_tensorrt", "require_tensorrt_rtx"]

MODULES: Final = ("tensorrt", "tensorrt_bindings")
"""TensorRT, and its bindings alone if the libraries are installed separately."""
RTX_MODULE: Final = "tensorrt_rtx_bindings"


def find_tensorrt() -> ModuleType | None:
    """Import TensorRT; None if it cannot be imported."""
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


def require_tensorrt_rtx() -> ModuleType:
    """Import TensorRT-RTX.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module(RTX_MODULE)
    except ImportError as error:
        raise ConfigError.of(
            "TensorRT-RTX",
            got=str(error),
            expected="its wheels",
            fix="pip install 'cpcsam[export]'",
        ) from error


def _find() -> tuple[ModuleType | None, str]:
    """Return TensorRT, or None and the import errors."""
    reasons = []
    for name in MODULES:
        try:
            return import_module(name), ""
        except ImportError as error:
            reasons.append(str(error))
    return None, "; ".join(reasons)
