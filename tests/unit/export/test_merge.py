"""Merging of a run or a bare base, and the traceable, smoothed and fp16 forms of a model."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from segment_anything.modeling.image_encoder import Attention
from torch.utils.flop_counter import FlopCounterMode

from cpcsam.artifacts.manifest import MANIFEST_NAME, read_manifest, sha256_file
from cpcsam.errors import ConfigError, ExportError
from cpcsam.model.base_checkpoint import base_digest, load_base, save_base
from cpcsam.model.capl import FULL_CAPL, CaPL
from cpcsam.model.fusion import fuse
from cpcsam.model.lora import LoraConfig, inject_lora
from cpcsam.model.run_checkpoint import load_merged, save_run
from cpcsam.scale import SCALE, Scale
from export.graphs.attention import BlockwiseAttention, FoldedAttention
from export.graphs.fp16 import to_fp16
from export.graphs.modules import draw_images, draw_prompts, relative_difference, run_graphs
from export.graphs.smooth_quant import smooth_encoder
from export.graphs.traceable import make_traceable
from export.merge import TOLERANCE, main, measure_difference, merge
from export.provenance import code_digest
from export.real_images import Scene
from tests.support.model_factory import fill_with_noise, noisy_cpcsam, noisy_sam, windowed_cpcsam

FORM_TOLERANCE = 1e-5


RANGE = {"policy": "range", "low": 0, "high": 4095}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "vit_t"
    save_base(noisy_sam(), path)
    return path


@pytest.fixture(scope="module")
def run(base: Path) -> Path:
    model = load_base(base)
    inject_lora(model, LoraConfig())
    model.capl = CaPL(FULL_CAPL)
    fill_with_noise(model, seed=4, scale=0.1)
    config = {"intensity": RANGE}
    save_run(model, base.parent / "run", base=base, lora=LoraConfig(), config=config)
    return base.parent / "run"


@pytest.fixture(scope="module")
def merged(run: Path) -> tuple[Path, dict[str, float]]:
    """The run merged, and its differences."""
    path = run.parent / "merged"
    return path, merge(run, None, path)


def test_merge_run_measures_differences(
    run: Path, base: Path, merged: tuple[Path, dict[str, float]]
) -> None:
    path, differences = merged
    assert 0 < max(differences.values()) <= 1e-5
    assert differences["mask_decoder/low_res_masks"] > 0
    manifest = read_manifest(path, "merged")
    assert manifest.metrics["relative_difference"] == differences
    assert manifest.parents == {
        "run": sha256_file(run / MANIFEST_NAME),
        "base": base_digest(base),
        "code": code_digest(),
    }
    assert manifest.config["capl"]["hidden_dim"] == 128
    assert manifest.config["intensity"] == RANGE
    model = load_merged(path)
    assert not torch.equal(
        model.sam.image_encoder.blocks[0].attn.qkv.weight,
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


def test_merge_passes_on_the_scale_of_the_run_or_of_the_bare_base(
    base: Path, merged: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    scale = Scale(96, 1.25)
    declared = {SCALE: scale.record()}
    save_base(noisy_sam(), tmp_path / "base", config=declared)
    model = load_base(base)
    inject_lora(model, LoraConfig(rank=1))
    save_run(model, tmp_path / "run", base=base, lora=LoraConfig(rank=1), config=declared)
    for name, source in (("run", tmp_path / "run"), ("base", tmp_path / "base")):
        merge(*((source, None) if name == "run" else (None, source)), tmp_path / f"{name}-merged")
        manifest = read_manifest(tmp_path / f"{name}-merged", "merged")
        assert Scale.of_manifest(manifest.config) == scale
    assert SCALE not in read_manifest(merged[0], "merged").config


def test_merge_unchanged_run_is_reused(
    run: Path, merged: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    path, differences = merged
    out = Path(shutil.copytree(path, tmp_path / "merged"))
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


def tensors(images: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return draw_images(256, images, generator) | draw_prompts(256, images, 3, 4, generator)


def test_make_traceable_shares_weights_and_keeps_model() -> None:
    model = fuse(noisy_cpcsam())
    expected = run_graphs(model, tensors())
    form = make_traceable(model, partial(BlockwiseAttention, queries=64))
    for name, actual in run_graphs(form, tensors()).items():
        assert relative_difference(actual, expected[name]) <= FORM_TOLERANCE, name
    assert {p.data_ptr() for p in form.parameters()} <= {p.data_ptr() for p in model.parameters()}
    assert isinstance(model.sam.image_encoder.blocks[0].attn, Attention)


@pytest.mark.parametrize(("prompts", "points"), [(1, 1), (16, 16)])
def test_traceable_decoder_has_equal_outputs_for_any_number_of_tokens(
    prompts: int, points: int
) -> None:
    model = fuse(noisy_cpcsam())
    generator = torch.Generator().manual_seed(prompts)
    given = draw_images(256, 2, generator) | draw_prompts(256, 2, prompts, points, generator)
    expected = run_graphs(model, given)
    for name, actual in run_graphs(make_traceable(model), given).items():
        assert relative_difference(actual, expected[name]) <= FORM_TOLERANCE, name


def test_traceable_decoder_multiplies_less() -> None:
    generator = torch.Generator().manual_seed(0)
    sparse, token_mask = torch.randn(1, 16, 3, 256, generator=generator), torch.ones(1, 16, 3)
    embeddings = torch.randn(1, 256, 16, 16, generator=generator)
    model, operations = fuse(noisy_cpcsam()), []
    for form in (model, make_traceable(model)):
        with FlopCounterMode(display=False) as counter:
            form.decode_masks(embeddings, sparse, token_mask, calibrate=torch.ones(1, 1))
        operations.append(counter.get_total_flops())
    assert operations[1] < 0.75 * operations[0]


@pytest.mark.parametrize("make", [noisy_cpcsam, windowed_cpcsam])
def test_to_fp16_is_close_and_keeps_contract(make) -> None:  # type: ignore[no-untyped-def]
    model = fuse(make())
    expected = run_graphs(model, tensors(images=1))
    for name, actual in run_graphs(
        to_fp16(make_traceable(model, FoldedAttention)), tensors(images=1)
    ).items():
        assert actual.dtype == torch.float32
        assert relative_difference(actual, expected[name]) <= 2e-2, name
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_to_fp16_in_bfloat16_is_close() -> None:
    model = fuse(noisy_cpcsam())
    expected = run_graphs(model, tensors(images=1))
    form = to_fp16(make_traceable(model), torch.bfloat16)
    assert form.image_pe().dtype == form.sam.mask_decoder.iou_token.weight.dtype == torch.bfloat16
    for name, actual in run_graphs(form, tensors(images=1)).items():
        assert actual.dtype == torch.float32
        assert relative_difference(actual, expected[name]) <= 1e-1, name


def test_to_fp16_too_large_weight_raises() -> None:
    model = fuse(noisy_cpcsam())
    model.sam.mask_decoder.iou_token.weight.data[0, 0] = 1e5
    with pytest.raises(ExportError, match=r"iou_token\.weight: got a weight of 1e\+05.*fp32"):
        to_fp16(make_traceable(model))


@pytest.mark.parametrize("make", [noisy_cpcsam, windowed_cpcsam])
@torch.no_grad()
def test_smooth_encoder_changes_weights_and_keeps_outputs(make) -> None:  # type: ignore[no-untyped-def]
    form = make_traceable(fuse(make()))
    for block in form.sam.image_encoder.blocks:
        block.norm1.weight.mul_(torch.linspace(0.5, 2, len(block.norm1.weight)))
        block.norm2.bias.add_(torch.linspace(-1, 1, len(block.norm2.bias)))
    drawn = tensors()
    scene = Scene(
        "noise",
        drawn["image"][0].permute(1, 2, 0).numpy(),
        drawn["image"][:1],
        drawn["input_size"][:1],
    )
    smooth = smooth_encoder(form, [scene])
    image = drawn["image"], drawn["input_size"]
    assert (
        relative_difference(smooth.encode_image(*image), form.encode_image(*image))
        <= FORM_TOLERANCE
    )
    before, after = (model.sam.image_encoder.blocks[0] for model in (form, smooth))
    assert not torch.equal(after.attn.qkv.weight, before.attn.qkv.weight)

    ranges = [block.norm1.weight.abs() for block in (before, after)]
    unevenness = [float(weights.max() / weights.min()) for weights in ranges]
    assert unevenness[1] < 0.8 * unevenness[0]
    assert after.norm2.bias.abs().max() < 0.8 * before.norm2.bias.abs().max()
