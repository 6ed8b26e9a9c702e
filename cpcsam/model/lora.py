"""LoRA on SAM through peft: inject, list and merge.

peft is imported where it is used: it takes as long as torch, and most commands have no LoRA.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass

from cpcsam.errors import ConfigError
from cpcsam.model.sam import CpcSam

__all__ = ["LoraConfig", "inject_lora", "is_lora_parameter", "merge_lora"]


@dataclass(frozen=True)
class LoraConfig:
    """LoRA's target modules and rank (§4.2; rank 4 of Appendix F.2).

    Attributes:
        rank: rank of each update; 0 leaves LoRA out.
        alpha: the update is scaled by alpha / rank.
        encoder_modules: linear layers of the image encoder's blocks.
        decoder_modules: linear layers of the mask decoder's attentions.
    """

    rank: int = 4
    alpha: float = 4.0
    encoder_modules: tuple[str, ...] = ("qkv",)
    decoder_modules: tuple[str, ...] = ("q_proj", "v_proj")


def inject_lora(model: CpcSam, config: LoraConfig) -> None:
    """Add LoRA layers in place; untrained layers change no output.

    Raises:
        ConfigError: no layer of the model has a name of the config.
    """
    if config.rank == 0:
        return
    patterns = [
        rf"sam\.{part}\..*\.({'|'.join(map(re.escape, names))})"
        for part, names in (
            ("image_encoder", config.encoder_modules),
            ("mask_decoder", config.decoder_modules),
        )
        if names
    ]
    target = "|".join(patterns)
    # peft matches a pattern against whole module names; so does this check.
    if not any(re.fullmatch(target, name) for name, _ in model.named_modules()):
        raise ConfigError.of(
            "lora",
            got=f"modules {[*config.encoder_modules, *config.decoder_modules]}",
            expected="names of linear layers, such as qkv, q_proj, v_proj",
            fix="correct lora.encoder_modules and lora.decoder_modules",
        )
    from peft import LoraConfig as PeftLoraConfig
    from peft import inject_adapter_in_model

    inject_adapter_in_model(
        PeftLoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # type: ignore[arg-type]  # it only divides it by r
            target_modules=target,
        ),
        model,
    )


def is_lora_parameter(name: str) -> bool:
    """Return whether `inject_lora` added the parameter of this name."""
    return ".lora_" in name


def merge_lora(model: CpcSam) -> CpcSam:
    """Return a copy with every LoRA update added to its weight and no LoRA layer left."""
    merged = copy.deepcopy(model).requires_grad_(False).eval()
    if not any(map(is_lora_parameter, merged.state_dict())):
        return merged
    from peft.tuners.lora import LoraLayer

    # A list, because the loop replaces modules of the tree that it walks.
    for name, module in list(merged.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge(safe_merge=True)
            parent_name, _, child = name.rpartition(".")
            # Under its own name again: fused models and exports know no `base_layer`.
            setattr(merged.get_submodule(parent_name), child, module.get_base_layer())
    return merged
