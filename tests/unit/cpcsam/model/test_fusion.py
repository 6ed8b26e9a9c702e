"""The fused model computes what the explicitly calibrated one does."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache

import pytest
import torch
from torch import Tensor

from cpcsam.model.capl import FULL_CAPL, CaplConfig, FusedAttention, separate_heads
from cpcsam.model.fusion import FusedCpcSam, build_merged, fuse
from cpcsam.model.lora import LoraConfig, inject_lora
from cpcsam.model.sam import CpcSam
from tests.support.model_factory import fill_with_noise, noisy_cpcsam, noisy_sam

CONFIGS = [
    FULL_CAPL,
    replace(FULL_CAPL, entity=False),
    replace(FULL_CAPL, task=False),
    replace(FULL_CAPL, task=False, entity=False),
    replace(FULL_CAPL, image_conditioned=False, rank=3, hidden_dim=32),
    replace(FULL_CAPL, image_conditioned=False, entity=False),
    replace(FULL_CAPL, task=False, rank=1),
    replace(FULL_CAPL, moves_points=False),
]


def name_of(config: CaplConfig) -> str:
    return " ".join(f"{key}={value}" for key, value in asdict(config).items())


def relative_difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def outputs(model: CpcSam) -> dict[str, Tensor]:
    """Both graphs' outputs on random embeddings, with and without a mask prompt."""
    generator = torch.Generator().manual_seed(3)
    dtype = model.sam.mask_decoder.iou_token.weight.dtype
    embeddings = torch.randn(2, 256, 16, 16, generator=generator).to(dtype)
    coords = 256 * torch.rand(2, 3, 4, 2, generator=generator)
    labels = torch.randint(-1, 4, (2, 3, 4), generator=generator).int()
    mask_input = torch.randn(2, 3, 1, 64, 64, generator=generator).to(dtype)
    has_mask = torch.rand(2, 3, 1, 1, 1, generator=generator) < 0.5
    sparse, token_mask = model.encode_prompts(embeddings, coords, labels)
    dense = model.encode_masks(mask_input)
    masks, iou = model.decode_masks(embeddings, sparse, token_mask)
    refined, refined_iou = model.decode_masks(embeddings, sparse, token_mask, dense)
    some = torch.where(has_mask, dense, model.no_mask_embedding())
    partly, partly_iou = model.decode_masks(embeddings, sparse, token_mask, some)
    return {
        "sparse_embeddings": sparse,
        "dense_embeddings": dense,
        "low_res_masks": masks,
        "iou_predictions": iou,
        "low_res_masks with mask": refined,
        "iou_predictions with mask": refined_iou,
        "low_res_masks partly with mask": partly,
        "iou_predictions partly with mask": partly_iou,
    }


@cache
def fused_outputs(config: CaplConfig | None) -> tuple[FusedCpcSam, dict[str, Tensor]]:
    """The fused model of a configuration, or without CaPL, and what it computes."""
    fused = fuse(noisy_sam() if config is None else noisy_cpcsam(config=config))
    return fused, outputs(fused)


def cross_attentions(model: CpcSam) -> list[torch.nn.Module]:
    """The five sites in the order of `EntityModule.sites`."""
    transformer = model.sam.mask_decoder.transformer
    sites = []
    for layer in transformer.layers:
        sites += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    return [*sites, transformer.final_attn_token_to_image]


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_fused_equals_explicit(config: CaplConfig) -> None:
    fused, found = fused_outputs(config)
    for name, expected in outputs(noisy_cpcsam(config=config)).items():
        assert relative_difference(found[name], expected) <= 1e-5, name
    sites = sum(isinstance(module, FusedAttention) for module in fused.modules())
    assert sites == (5 if config.entity else 0)
    assert not any("entity" in name for name in fused.state_dict())


def test_fuse_entity_module_is_exact_in_float64() -> None:
    """What differs in float32 is rounding: √d is 4 here, so that fusing itself rounds nothing."""
    model = noisy_cpcsam(config=replace(FULL_CAPL, task=False))
    fused = fuse(model)
    for each in (model, fused):
        each.double()
        each.sam.prompt_encoder.pe_layer.float()  # it makes its grid in float32
    expected = outputs(model)
    for name, found in outputs(fused).items():
        assert relative_difference(found, expected[name]) <= 1e-13, name


@torch.no_grad()
def test_fused_logits_equal_biased_logits_at_every_site() -> None:
    model = noisy_cpcsam()
    assert model.capl is not None and model.capl.entity is not None
    fused = fuse(model)
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randn(2, 3, 7, 256, generator=generator)
    image = torch.randn(2, 3, 16, 256, generator=generator)
    pairs = zip(cross_attentions(model), cross_attentions(fused), strict=True)
    for (plain, wide), site in zip(pairs, model.capl.entity.sites, strict=True):
        assert isinstance(wide, FusedAttention)
        heads, scale = plain.num_heads, (plain.internal_dim // plain.num_heads) ** -0.5
        tokens_ask = wide.q_proj.out_features < wide.k_proj.out_features
        token_side, image_side = ("q_proj", "k_proj") if tokens_ask else ("k_proj", "q_proj")

        def project(module: torch.nn.Module, x: Tensor, heads: int = heads) -> Tensor:
            return separate_heads(module(x), heads)

        token_part = project(getattr(plain, token_side), tokens)
        image_part = project(getattr(plain, image_side), image)
        bias = site(tokens, image)
        explicit = scale * token_part @ image_part.transpose(-1, -2) + bias
        wide_token_part = torch.cat(
            [project(getattr(wide, token_side), tokens), project(wide.token_mlp, tokens)], dim=-1
        )
        wide_image_part = project(getattr(wide, image_side), image)
        found = scale * wide_token_part @ wide_image_part.transpose(-1, -2)
        assert relative_difference(found, explicit) <= 1e-5
        assert relative_difference(explicit - bias, explicit) > 1e-2, "the bias matters"


def test_every_fused_module_changes_the_output() -> None:
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


def test_fuse_without_capl_equals_official_sam() -> None:
    model = noisy_sam()
    fused = fuse(model)
    assert fused.fused_config is None
    assert fused.state_dict().keys() == model.state_dict().keys()
    expected = outputs(model)
    for name, found in outputs(fused).items():
        assert torch.equal(found, expected[name]), name


def test_fuse_leaves_the_model_unchanged() -> None:
    model = noisy_cpcsam()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fuse(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("config", [None, *CONFIGS], ids=lambda c: name_of(c) if c else "no CaPL")
def test_build_merged_loads_fused_weights(config: CaplConfig | None) -> None:
    fused, expected = fused_outputs(config)
    empty = build_merged("vit_t", 256, config).eval()
    empty.load_state_dict(fused.state_dict())
    for name, found in outputs(empty).items():
        assert torch.equal(found, expected[name]), name


def test_empty_slots_do_not_change_the_output() -> None:
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
