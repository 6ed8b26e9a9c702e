"""LoRA on SAM through peft: inject, list and merge.

peft is imported where it is used: it takes as long as torch, and most commands have no LoRA.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass

from torch import nn

from cpcsam.checks import require_range
from cpcsam.errors import ConfigError
from cpcsam.model.sam import CpcSam

__all__ = ["LoraConfig", "inject_lora", "is_lora_parameter", "merge_lora", "require_lora_layers"]


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

    def __post_init__(self) -> None:
        """Refuse a rank below 0 and an update that is never added."""
        require_range("model.lora.rank", self.rank, 0)
        require_range("model.lora.alpha", self.alpha, 0, above=True)


def inject_lora(model: CpcSam, config: LoraConfig) -> None:
    """Add LoRA layers in place; untrained layers change no output."""
    if config.rank == 0:
        return
    from peft import LoraConfig as PeftLoraConfig
    from peft import inject_adapter_in_model

    inject_adapter_in_model(
        PeftLoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft says int, and only divides
            target_modules="|".join(_pattern(part, name) for _, part, name in _named(config)),
        ),
        model,
    )


def require_lora_layers(model: CpcSam, config: LoraConfig) -> None:
    """Refuse names that train nothing; runs that have such a name are loaded all the same.

    Raises:
        ConfigError: there is a rank and no name, or a name of no linear layer of its part.
    """
    names = _named(config)
    if config.rank and not names:
        raise ConfigError.of(
            "model.lora.rank",
            got=f"{config.rank} and no modules",
            expected="encoder_modules or decoder_modules",
            fix="name linear layers, or leave LoRA out with model.lora.rank=0",
        )
    for key, part, name in names if config.rank else ():
        # peft matches a pattern against whole module names; so does this check.
        pattern = _pattern(part, name)
        layers = [layer for path, layer in model.named_modules() if re.fullmatch(pattern, path)]
        linear = any(isinstance(layer, nn.Linear) for layer in layers)
        if not linear or not all(isinstance(layer, nn.Linear | nn.Conv2d) for layer in layers):
            raise ConfigError.of(
                f"model.lora.{key}",
                got=name,
                expected=" | ".join(_linear_layers(model, part)),
                fix="choose among them",
            )


def _named(config: LoraConfig) -> list[tuple[str, str, str]]:
    """Return each name with its key and its part of the model."""
    return [
        *(("encoder_modules", "image_encoder", name) for name in config.encoder_modules),
        *(("decoder_modules", "mask_decoder", name) for name in config.decoder_modules),
    ]


def _pattern(part: str, name: str) -> str:
    return rf"sam\.{part}\..*\.{re.escape(name)}"


def _linear_layers(model: CpcSam, part: str) -> list[str]:
    names = {
        path.rpartition(".")[2]
        for path, layer in model.named_modules()
        if path.startswith(f"sam.{part}.") and isinstance(layer, nn.Linear)
    }
    return sorted(name for name in names if not name.isdecimal())


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
