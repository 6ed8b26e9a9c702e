"""The stand-in for TensorRT's runtime uses only names of the real bindings."""

from __future__ import annotations

import tensorrt_rtx_bindings

from tests.support.stand_in_gpu import tensorrt


def test_stand_in_has_only_names_of_tensorrt() -> None:
    for name in ("Runtime", "ICudaEngine", "IExecutionContext"):
        stand_in, real = getattr(tensorrt, name), getattr(tensorrt_rtx_bindings, name)
        used = {word for word in vars(stand_in) if not word.startswith("_")}
        assert used and used <= {*dir(real)}, name
    assert hasattr(tensorrt_rtx_bindings.ICudaEngine, "num_optimization_profiles")
    assert hasattr(tensorrt_rtx_bindings.Logger, "ERROR") and tensorrt_rtx_bindings.nptype
