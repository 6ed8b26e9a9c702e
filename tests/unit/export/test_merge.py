"""Merging of a run or a bare base, and the check of its outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cpcsam.artifacts.manifest import MANIFEST_NAME, read_manifest, sha256_file
from cpcsam.errors import ConfigError, ExportError
from cpcsam.model.base_checkpoint import base_digest, load_base, save_base
from cpcsam.model.capl import CaPL, CaplConfig
from cpcsam.model.fusion import fuse
from cpcsam.model.lora import LoraConfig, inject_lora
from cpcsam.model.run_checkpoint import load_merged, save_run
from export.merge import TOLERANCE, main, measure_difference, merge
from export.provenance import code_digest
from tests.support.model_factory import fill_with_noise, noisy_cpcsam, noisy_sam


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "vit_t"
    save_base(noisy_sam(), path)
    return path


@pytest.fixture(scope="module")
def run(base: Path) -> Path:
    model = load_base(base)
    inject_lora(model, LoraConfig())
    model.capl = CaPL(CaplConfig())
    fill_with_noise(model, seed=4, scale=0.1)
    save_run(model, base.parent / "run", base=base, lora=LoraConfig())
    return base.parent / "run"


def test_merge_run_measures_differences(run: Path, base: Path, tmp_path: Path) -> None:
    differences = merge(run, None, tmp_path / "merged")
    assert 0 < max(differences.values()) <= 1e-5
    assert differences["mask_decoder/low_res_masks"] > 0
    manifest = read_manifest(tmp_path / "merged", "merged")
    assert manifest.metrics["relative_difference"] == differences
    assert manifest.parents == {
        "run": sha256_file(run / MANIFEST_NAME),
        "base": base_digest(base),
        "code": code_digest(),
    }
    assert manifest.config["capl"]["hidden_dim"] == 128
    merged = load_merged(tmp_path / "merged")
    assert not torch.equal(
        merged.sam.image_encoder.blocks[0].attn.qkv.weight,
        load_base(base).sam.image_encoder.blocks[0].attn.qkv.weight,
    )


def test_merge_bare_base_keeps_weights(base: Path, tmp_path: Path) -> None:
    assert max(merge(None, base, tmp_path / "merged").values()) == 0
    merged = load_merged(tmp_path / "merged")
    assert merged.fused_config is None
    expected = load_base(base).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in merged.state_dict().items())
    assert read_manifest(tmp_path / "merged").parents == {
        "base": base_digest(base),
        "code": code_digest(),
    }


def test_merge_unchanged_run_is_reused(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    differences = merge(run, None, out)
    made = (out / MANIFEST_NAME).stat().st_mtime_ns
    assert merge(run, None, out) == differences
    assert (out / MANIFEST_NAME).stat().st_mtime_ns == made
    [weights] = out.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    assert merge(run, None, out) == differences
    assert (out / MANIFEST_NAME).stat().st_mtime_ns != made
    read_manifest(out, "merged")


def test_merge_bare_base_at_another_image_size(base: Path, tmp_path: Path) -> None:
    merge(None, base, tmp_path / "merged", image_size=512)
    assert read_manifest(tmp_path / "merged").config["image_size"] == 512
    assert load_merged(tmp_path / "merged").image_size == 512


def test_measure_difference_changed_outputs_raises() -> None:
    other = fuse(noisy_cpcsam(seed=1))
    with pytest.raises(ExportError, match=f"expected at most {TOLERANCE:.0e}"):
        measure_difference(noisy_cpcsam(), other)


def test_measure_difference_nonfinite_outputs_raises() -> None:
    model = noisy_sam()
    with torch.no_grad():
        model.sam.mask_decoder.iou_token.weight.fill_(3e38)
    with pytest.raises(ExportError, match="mask_decoder/.* got a relative difference of nan"):
        measure_difference(model, fuse(model))


def test_merge_invalid_options_raise(run: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither --run nor --base"):
        merge(None, None, tmp_path / "merged")
    with pytest.raises(ConfigError, match="--image-size: got 512, expected none"):
        merge(run, base, tmp_path / "merged", image_size=512)


def test_merge_command_succeeds_or_fails_in_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--run", str(run), "--out", str(tmp_path / "merged")]) == 0
    assert "largest relative difference" in capsys.readouterr().out
    assert main(["--run", str(tmp_path / "none"), "--out", str(tmp_path / "x")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("python -m export.merge: ") and len(message.splitlines()) == 1
    assert not (tmp_path / "x").exists()
