"""The fused model computes what the explicitly calibrated one does."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from torch import Tensor

from cpcsam.model.capl import CaplConfig
from cpcsam.model.decoder import FusedAttention
from cpcsam.model.fuse import build_merged, fuse
from cpcsam.model.lora import LoraConfig, inject_lora
from cpcsam.model.sam import CpcSam
from tests.model_factory import fill_with_noise, noisy_cpcsam, noisy_sam

CONFIGS = [
    CaplConfig(),
    CaplConfig(entity=False),
    CaplConfig(task=False),
    CaplConfig(task=False, entity=False),
    CaplConfig(image_conditioned=False, rank=3, hidden_dim=32),
]


def name_of(config: CaplConfig) -> str:
    return " ".join(f"{key}={value}" for key, value in asdict(config).items())


def relative_difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def outputs(model: CpcSam) -> dict[str, Tensor]:
    """Both graphs' outputs on random embeddings, with and without a mask prompt."""
    generator = torch.Generator().manual_seed(3)
    embeddings = torch.randn(2, 256, 16, 16, generator=generator)
    coords = 256 * torch.rand(2, 3, 4, 2, generator=generator)
    labels = torch.randint(-1, 4, (2, 3, 4), generator=generator).int()
    mask_input = torch.randn(2, 3, 1, 64, 64, generator=generator)
    sparse, token_mask = model.encode_prompts(embeddings, coords, labels)
    dense = model.encode_masks(mask_input)
    masks, iou = model.decode_masks(embeddings, sparse, token_mask)
    refined, refined_iou = model.decode_masks(embeddings, sparse, token_mask, dense)
    return {
        "sparse_embeddings": sparse,
        "dense_embeddings": dense,
        "low_res_masks": masks,
        "iou_predictions": iou,
        "low_res_masks with mask": refined,
        "iou_predictions with mask": refined_iou,
    }


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_fused_equals_explicit(config: CaplConfig) -> None:
    model = noisy_cpcsam(config=config)
    fused = fuse(model)
    expected = outputs(model)
    for name, found in outputs(fused).items():
        assert relative_difference(found, expected[name]) <= 1e-5, name
    sites = sum(isinstance(module, FusedAttention) for module in fused.modules())
    assert sites == (5 if config.entity else 0)
    assert not any("entity" in name for name in fused.state_dict())


def test_every_module_that_is_fused_matters() -> None:
    """The comparison above can fail: leaving one module out changes the masks."""
    full = outputs(noisy_cpcsam())["low_res_masks"]
    for config in CONFIGS[1:4]:
        model = noisy_cpcsam()
        assert model.capl is not None
        if not config.task:
            model.capl.task = None
        if not config.entity:
            model.capl.entity = None
        assert relative_difference(outputs(model)["low_res_masks"], full) > 1e-3


def test_fused_equals_explicit_with_lora() -> None:
    model = noisy_cpcsam()
    inject_lora(model, LoraConfig())
    fill_with_noise(model, seed=6, scale=0.3)
    expected = outputs(model)
    for name, found in outputs(fuse(model)).items():
        assert relative_difference(found, expected[name]) <= 1e-5, name


def test_a_model_without_capl_stays_official() -> None:
    model = noisy_sam()
    fused = fuse(model)
    assert fused.fused_config is None
    assert fused.state_dict().keys() == model.state_dict().keys()
    for name, found in outputs(fused).items():
        assert torch.equal(found, outputs(model)[name]), name


def test_fusing_leaves_the_model_as_it_was() -> None:
    model = noisy_cpcsam()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fuse(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("config", [None, *CONFIGS], ids=lambda c: name_of(c) if c else "no CaPL")
def test_empty_structure_takes_the_fused_weights(config: CaplConfig | None) -> None:
    fused = fuse(noisy_sam() if config is None else noisy_cpcsam(config=config))
    empty = build_merged("vit_t", 256, config).eval()
    empty.load_state_dict(fused.state_dict())
    expected = outputs(fused)
    for name, found in outputs(empty).items():
        assert torch.equal(found, expected[name]), name


def test_empty_slots_may_hold_anything() -> None:
    model = noisy_cpcsam()
    embeddings = torch.randn(1, 256, 16, 16, generator=torch.Generator().manual_seed(1))
    coords = torch.tensor([[[[100.0, 50.0], [0.0, 0.0]]]])
    labels = torch.tensor([[[1, -1]]], dtype=torch.int32)
    results = []
    for garbage in (0.0, -1e30, float("inf"), float("nan")):
        coords[..., 1, :] = garbage
        with torch.no_grad():
            sparse, token_mask = model.encode_prompts(embeddings, coords, labels)
            results.append(model.decode_masks(embeddings, sparse, token_mask)[0])
    assert all(torch.equal(result, results[0]) for result in results[1:])
