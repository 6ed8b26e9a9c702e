"""Bases, runs and merged models: written, read back, and refused when they do not fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling.image_encoder import get_rel_pos
from torch import Tensor

from cpcsam.artifacts.manifest import read_manifest
from cpcsam.errors import ArtifactError, ConfigError
from cpcsam.model.base_checkpoint import (
    MODEL_FILE,
    base_digest,
    load_base,
    recognise,
    resize_positions,
    save_base,
)
from cpcsam.model.build_sam import ENCODERS, build_sam
from cpcsam.model.capl import FULL_CAPL, CaPL, CaplConfig
from cpcsam.model.fusion import fuse
from cpcsam.model.lora import LoraConfig, inject_lora
from cpcsam.model.run_checkpoint import TRAINED_FILE, load_merged, load_run, save_merged, save_run
from cpcsam.model.sam import CpcSam
from tests.support.model_factory import fill_with_noise, noisy_cpcsam, noisy_sam


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "vit_t"
    save_base(noisy_sam(), path, config={"recipe": "noise"}, metrics={"dice": 0.5})
    return path


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("official") / "sam_vit_t.pth"
    torch.save(noisy_sam().sam.state_dict(), path)
    return path


def trained_model(base: Path, lora: LoraConfig | None = None) -> CpcSam:
    """A model as training leaves it: everything it trains is away from its start."""
    model = load_base(base)
    inject_lora(model, lora or LoraConfig())
    model.capl = CaPL(replace(FULL_CAPL, rank=4))
    model.sam.mask_decoder.iou_prediction_head.requires_grad_(True)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def assert_equal_states(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_base_round_trip(base: Path) -> None:
    loaded = load_base(base)
    assert_equal_states(
        loaded.state_dict(),
        {name: value.half().float() for name, value in noisy_sam().state_dict().items()},
    )
    assert loaded.capl is None
    assert not loaded.training
    manifest = read_manifest(base, "checkpoint")
    assert manifest.config == {"recipe": "noise", "model_size": "vit_t", "image_size": 256}
    assert manifest.metrics == {"dice": 0.5}
    assert (base / MODEL_FILE).stat().st_size <= 17_000_000


def test_load_base_reads_official_vit_b_file(tmp_path: Path) -> None:
    sam = sam_model_registry["vit_b"]()
    fill_with_noise(sam, seed=2)
    torch.save(sam.state_dict(), tmp_path / "sam_vit_b_01ec64.pth")
    loaded = load_base(tmp_path / "sam_vit_b_01ec64.pth")
    assert loaded.image_size == 1024
    assert_equal_states(loaded.sam.state_dict(), sam.state_dict())
    assert torch.equal(loaded.sam.pixel_mean, sam.pixel_mean)
    assert torch.equal(loaded.sam.pixel_std, sam.pixel_std)


@pytest.mark.parametrize("model_size", ENCODERS)
def test_recognise_every_size_by_its_shapes(model_size: str) -> None:
    with torch.device("meta"):
        state = build_sam(model_size).state_dict()
    assert recognise(state, "a file") == (model_size, ENCODERS[model_size].default_image_size)


def test_resized_positions_equal_official_interpolation() -> None:
    state = noisy_sam().sam.state_dict()
    resized = resize_positions(state, "vit_t", 512)
    name = "image_encoder.blocks.3.attn.rel_pos_w"
    offsets = torch.arange(32)[:, None] - torch.arange(32)[None, :] + 31
    torch.testing.assert_close(resized[name][offsets], get_rel_pos(32, 32, state[name]))
    smooth = torch.linspace(0, 1, 16).reshape(1, 1, 16, 1).expand(1, 16, 16, 192)
    wider = resize_positions({**state, "image_encoder.pos_embed": smooth}, "vit_t", 512)
    row = wider["image_encoder.pos_embed"][0, 0, :, 0]
    expected = ((torch.arange(32) + 0.5) / 2 - 0.5) / 15
    torch.testing.assert_close(row[4:-4], expected[4:-4])
    changed = {key for key in state if resized[key].shape != state[key].shape}
    assert changed == {"image_encoder.pos_embed"} | {
        f"image_encoder.blocks.{block}.attn.rel_pos_{axis}" for block in range(7) for axis in "hw"
    }


def test_base_at_another_image_size_segments(base: Path) -> None:
    model = load_base(base, image_size=512)
    with torch.no_grad():
        image = torch.zeros(1, 3, 512, 512, dtype=torch.uint8)
        embeddings = model.encode_image(image, torch.tensor([[512, 300]], dtype=torch.int32))
    assert embeddings.shape == (1, 256, 32, 32)
    with pytest.raises(ConfigError, match="image_size: got 300"):
        load_base(base, image_size=300)


def test_load_base_truncated_pth_raises(official: Path, tmp_path: Path) -> None:
    content = official.read_bytes()
    for length in (0, 1000, len(content) // 2, len(content) - 100):
        (tmp_path / "cut.pth").write_bytes(content[:length])
        with pytest.raises(ArtifactError, match=r"cut\.pth.*expected an artifact of kind"):
            load_base(tmp_path / "cut.pth")


def test_load_base_other_files_raise(official: Path, tmp_path: Path) -> None:
    file = tmp_path / "other.pth"
    with pytest.raises(ArtifactError, match="no such file"):
        load_base(file)
    file.write_text("not weights")
    with pytest.raises(ArtifactError, match="unreadable file of 11 bytes"):
        load_base(file)
    torch.save({"model": {}, "step": 3}, file)
    with pytest.raises(ArtifactError, match="a dict of other things than tensors"):
        load_base(file)
    torch.save({"fc.weight": torch.zeros(3, 3)}, file)
    with pytest.raises(ArtifactError, match=r"1 tensors \(fc.weight …\), expected SAM's"):
        load_base(file)
    torch.save(ArtifactError("code that unpickling would run"), file)
    with pytest.raises(ArtifactError, match="unreadable file"):
        load_base(file)
    with pytest.raises(ArtifactError, match="got vit_t, expected vit_b"):
        load_base(official, "vit_b")


def test_fill_unfitting_state_raises(tmp_path: Path) -> None:
    file = tmp_path / "sam.pth"
    state = noisy_sam().sam.state_dict()
    incomplete = {name: value for name, value in state.items() if "iou_token" not in name}
    torch.save(incomplete, file)
    with pytest.raises(ArtifactError, match="1 tensors missing .*iou_token"):
        load_base(file)
    torch.save({**state, "mask_decoder.iou_token.weight": torch.zeros(2, 256)}, file)
    with pytest.raises(ArtifactError, match=r"iou_token.weight: got shape \(2, 256\)"):
        load_base(file)
    shallow = {name: value for name, value in state.items() if ".blocks.6." not in name}
    torch.save(shallow, file)
    with pytest.raises(ArtifactError, match="width 192 and 6 blocks, expected one of vit_t"):
        load_base(file)


def test_load_base_altered_file_raises(base: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(base, tmp_path / "copy")
    weights = copy / MODEL_FILE
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(ArtifactError, match="altered"):
        load_base(copy)
    weights.unlink()
    with pytest.raises(ArtifactError, match="no such file"):
        load_base(copy)


def test_save_base_float16_overflow_raises(tmp_path: Path) -> None:
    model = noisy_sam()
    with torch.no_grad():
        model.sam.mask_decoder.iou_token.weight[0, 0] = 1e5
    with pytest.raises(ArtifactError, match=r"iou_token.weight: got values that are not finite"):
        save_base(model, tmp_path / "base")
    assert not any(tmp_path.iterdir())


def test_run_round_trip(base: Path, tmp_path: Path) -> None:
    lora = LoraConfig(rank=2, encoder_modules=("qkv", "lin1"))
    model = trained_model(base, lora)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    model.requires_grad_(False)
    model.sam.mask_decoder.iou_prediction_head.requires_grad_(True)

    save_run(model, tmp_path / "run", base=base, lora=lora, config={"seed": 1})

    loaded = load_run(tmp_path / "run")
    assert_equal_states(loaded.state_dict(), model.state_dict())
    assert {name for name, value in loaded.named_parameters() if value.requires_grad} == trained
    assert loaded.capl is not None and loaded.capl.config == replace(FULL_CAPL, rank=4)
    manifest = read_manifest(tmp_path / "run", "run")
    assert manifest.config["base"] == {"path": str(base), "sha256": base_digest(base)}
    assert manifest.config["seed"] == 1
    assert manifest.parents == {"base": base_digest(base)}
    assert (tmp_path / "run" / TRAINED_FILE).stat().st_size < 3_500_000


def test_a_run_without_the_form_of_its_points_keeps_the_earlier_one(
    base: Path, tmp_path: Path
) -> None:
    """As runs were recorded before there was a choice; their merged models alike."""
    model = load_base(base)
    model.capl = CaPL(replace(FULL_CAPL, point_form="offset"))
    fill_with_noise(model.capl, seed=1, scale=0.1)
    save_run(model, tmp_path / "run", base=base, lora=LoraConfig(rank=0))
    save_merged(fuse(model), tmp_path / "merged", parents={"base": "0" * 64})
    for name in ("run", "merged"):
        manifest = tmp_path / name / "manifest.json"
        recorded = json.loads(manifest.read_text())
        del recorded["config"]["capl"]["point_form"], recorded["config"]["capl"]["reweights"]
        manifest.write_text(json.dumps(recorded))
    loaded = load_run(tmp_path / "run")
    assert_equal_states(loaded.state_dict(), model.state_dict())
    assert loaded.capl is not None and loaded.capl.config == model.capl.config
    assert load_merged(tmp_path / "merged").fused_config == model.capl.config


def test_run_without_lora_and_capl(base: Path, tmp_path: Path) -> None:
    model = load_base(base).requires_grad_(False)
    model.sam.mask_decoder.iou_prediction_head.requires_grad_(True)
    save_run(model, tmp_path / "run", base=base, lora=LoraConfig(rank=0))
    loaded = load_run(tmp_path / "run")
    assert loaded.capl is None
    assert_equal_states(loaded.state_dict(), model.state_dict())


def test_load_run_uses_the_given_base_path(base: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(base, tmp_path / "before")
    save_run(trained_model(moved), tmp_path / "run", base=moved, lora=LoraConfig())
    moved.rename(tmp_path / "after")
    with pytest.raises(ArtifactError, match="got nothing at .*before"):
        load_run(tmp_path / "run")
    assert load_run(tmp_path / "run", base=tmp_path / "after").capl is not None
    save_base(noisy_sam(seed=9), tmp_path / "other")
    with pytest.raises(ArtifactError, match="the base that the run was trained on"):
        load_run(tmp_path / "run", base=tmp_path / "other")


def test_load_run_unknown_configuration_names_it(base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    save_run(trained_model(base), run, base=base, lora=LoraConfig())
    manifest = run / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"hidden_dim":', '"hidden_width":'))
    expected = rf"{manifest}: capl.hidden_width: got an unknown key, expected hidden_dim; "
    with pytest.raises(ArtifactError, match=expected):
        load_run(run)


def test_save_run_nonfinite_weights_raises(base: Path, tmp_path: Path) -> None:
    model = trained_model(base)
    assert model.capl is not None and model.capl.task is not None
    with torch.no_grad():
        model.capl.task.sparse[0].bias[0] = float("nan")
    with pytest.raises(ArtifactError, match=r"capl.task.sparse.0.bias: got values that are not"):
        save_run(model, tmp_path / "run", base=base, lora=LoraConfig())


@pytest.mark.parametrize("config", [None, FULL_CAPL, replace(FULL_CAPL, task=False)], ids=str)
def test_merged_round_trip(config: CaplConfig | None, tmp_path: Path) -> None:
    fused = fuse(noisy_sam() if config is None else noisy_cpcsam(config=config))
    save_merged(fused, tmp_path / "merged", parents={"base": "0" * 64})
    loaded = load_merged(tmp_path / "merged")
    assert_equal_states(loaded.state_dict(), fused.state_dict())
    assert loaded.fused_config == config
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_load_artifact_of_another_kind_raises(base: Path) -> None:
    with pytest.raises(ArtifactError, match="got kind checkpoint, expected merged"):
        load_merged(base)
    with pytest.raises(ArtifactError, match="got kind checkpoint, expected run"):
        load_run(base)
