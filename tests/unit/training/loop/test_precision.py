"""Mixed precision is chosen by what the device computes itself."""

from __future__ import annotations

import pytest
import torch

from training.loop.precision import has_bfloat16, is_mixed

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("avx512", "amx"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_auto_is_mixed_where_the_cpu_has_bfloat16(
    monkeypatch: pytest.MonkeyPatch, avx512: bool, amx: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert has_bfloat16(CPU) is (avx512 or amx)
    assert is_mixed("auto", CPU) is (avx512 or amx)


@pytest.mark.parametrize("supported", [False, True])
def test_auto_does_not_count_what_a_gpu_emulates(
    monkeypatch: pytest.MonkeyPatch, supported: bool
) -> None:
    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return including_emulation or supported

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert is_mixed("auto", torch.device("cuda")) is supported


@pytest.mark.parametrize(
    ("precision", "mixed"), [("bfloat16", True), ("float32", False), ("float64", False)]
)
@pytest.mark.parametrize("native", [False, True])
def test_a_named_precision_holds_on_every_device(
    monkeypatch: pytest.MonkeyPatch, precision: str, mixed: bool, native: bool
) -> None:
    monkeypatch.setattr("training.loop.precision.has_bfloat16", lambda _: native)
    assert is_mixed(precision, CPU) is mixed
