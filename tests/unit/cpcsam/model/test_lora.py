"""LoRA: injected it changes nothing, merged it computes the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cpcsam.errors import ConfigError
from cpcsam.model.lora import (
    LoraConfig,
    inject_lora,
    is_lora_parameter,
    merge_lora,
    require_lora_layers,
)
from cpcsam.model.sam import CpcSam
from tests.support.model_factory import fill_with_noise, noisy_cpcsam, noisy_sam

WIDE = LoraConfig(
    rank=8, alpha=4.0, encoder_modules=("qkv", "proj"), decoder_modules=("q_proj", "out_proj")
)


def relative_difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def outputs(model: CpcSam) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    image = torch.randint(0, 256, (1, 3, 256, 256), generator=generator, dtype=torch.uint8)
    coords = 256 * torch.rand(1, 2, 3, 2, generator=generator)
    labels = torch.tensor([[[1, 0, -1], [2, 3, 1]]], dtype=torch.int32)
    embeddings = model.encode_image(image, torch.tensor([[256, 200]], dtype=torch.int32))
    sparse, token_mask = model.encode_prompts(embeddings, coords, labels)
    return embeddings, *model.decode_masks(embeddings, sparse, token_mask)


def test_untrained_lora_changes_nothing() -> None:
    model = noisy_sam()
    before = outputs(model)
    inject_lora(model, LoraConfig())
    for found, expected in zip(outputs(model), before, strict=True):
        assert relative_difference(found, expected) <= 1e-6


@pytest.mark.parametrize("config", [LoraConfig(), WIDE], ids=["default", "wide"])
def test_merge_lora_equals_unmerged(config: LoraConfig) -> None:
    from peft.tuners.lora import LoraLayer  # it takes as long as torch

    model = noisy_cpcsam()
    base = outputs(model)
    inject_lora(model, config)
    fill_with_noise(model, seed=5, scale=0.3)
    unmerged = outputs(model)
    merged = merge_lora(model)

    for found, expected, untouched in zip(outputs(merged), unmerged, base, strict=True):
        assert relative_difference(found, expected) <= 1e-5
        assert relative_difference(expected, untouched) > 1e-3
    assert not any(isinstance(module, LoraLayer) for module in merged.modules())
    assert merged.state_dict().keys() == noisy_cpcsam().state_dict().keys()
    assert not any(parameter.requires_grad for parameter in merged.parameters())


def test_merge_lora_leaves_the_model_unchanged() -> None:
    model = noisy_sam()
    inject_lora(model, LoraConfig())
    fill_with_noise(model, seed=5, scale=0.3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    merge_lora(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_inject_lora_targets_the_configured_modules() -> None:
    model = noisy_sam()
    inject_lora(model, LoraConfig())
    names = [name for name, _ in model.named_parameters() if is_lora_parameter(name)]
    # A and B of 7 encoder blocks' qkv, and of q_proj and v_proj of the decoder's 7 attentions.
    assert len(names) == 2 * (7 + 2 * 7)
    assert all("qkv" in name or "q_proj" in name or "v_proj" in name for name in names)


def test_inject_lora_rank_zero_injects_nothing() -> None:
    model = noisy_sam()
    inject_lora(model, LoraConfig(rank=0))
    assert not any(is_lora_parameter(name) for name, _ in model.named_parameters())


@pytest.mark.parametrize(
    ("encoder", "decoder", "message"),
    [
        (("qvk",), ("q_proj",), r"encoder_modules: got qvk, expected lin1 \| lin2 \| proj \| qkv"),
        (("qkv",), ("q_proj", "qkv"), r"decoder_modules: got qkv, expected k_proj \| lin1"),
        (("attn",), ("q_proj",), "encoder_modules: got attn"),
        ((), (), "rank: got 4 and no modules"),
    ],
)
def test_every_name_must_be_of_a_linear_layer_of_its_part(
    encoder: tuple[str, ...], decoder: tuple[str, ...], message: str
) -> None:
    config = LoraConfig(encoder_modules=encoder, decoder_modules=decoder)
    with pytest.raises(ConfigError, match=rf"model\.lora\.{message}"):
        require_lora_layers(noisy_sam(), config)


def test_names_of_no_effect_of_earlier_runs_are_loaded() -> None:
    model = noisy_sam()
    inject_lora(model, LoraConfig(encoder_modules=("qkv", "fc1")))
    assert any("qkv.lora_A" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("values", [{"rank": -1}, {"alpha": 0.0}])
def test_impossible_updates_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"model\.lora\.{next(iter(values))}: got"):
        LoraConfig(**values)  # type: ignore[arg-type]
