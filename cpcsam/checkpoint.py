"""Weights on disk: bases, training runs and merged models, read and written as artifacts.

| kind         | file                  | holds                                                |
|--------------|-----------------------|------------------------------------------------------|
| `checkpoint` | `model.safetensors`   | a base in segment-anything's key layout, float16     |
| `run`        | `trained.safetensors` | what training changed: LoRA, CaPL and unfrozen parts |
| `merged`     | `model.safetensors`   | LoRA merged and CaPL fused, float32, ready to export |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from cpcsam.artifact import publish, read_manifest, sha256_file
from cpcsam.errors import ArtifactError
from cpcsam.model.capl import CaPL, CaplConfig
from cpcsam.model.fuse import FusedCpcSam, build_merged
from cpcsam.model.layout import recognise, resize_positions
from cpcsam.model.lora import LoraConfig, inject_lora, is_lora_parameter
from cpcsam.model.official import by_digest, named_if_official, warn_if_damaged
from cpcsam.model.sam import CpcSam
from cpcsam.model.sizes import build_sam
from cpcsam.model.state import (
    cpu_state,
    fill,
    read_pth,
    read_safetensors,
    require_finite,
    require_fit,
    write_safetensors,
)

__all__ = [
    "MODEL_FILE",
    "TRAINED_FILE",
    "base_digest",
    "inspect_base",
    "load_base",
    "load_merged",
    "load_run",
    "save_base",
    "save_merged",
    "save_run",
]

MODEL_FILE: Final = "model.safetensors"
TRAINED_FILE: Final = "trained.safetensors"

Config = TypeVar("Config", CaplConfig, LoraConfig)


def load_base(path: Path, model_size: str | None = None, image_size: int | None = None) -> CpcSam:
    """Load a SAM without CaPL, in float32 and evaluation mode.

    Args:
        path: an artifact of kind `checkpoint`, or an official `sam_vit_{b,l,h}_*.pth`.
        model_size: refuse any other size; None accepts what the file holds.
        image_size: side S in pixels; positional embeddings are interpolated where the file's
            differs. None keeps the file's.

    Raises:
        ArtifactError: missing, altered or cut short, not SAM's layout, or not `model_size`.
        ConfigError: an `image_size` that the contract does not know.
    """
    with named_if_official(path):
        state, found_size, found_image_size = _read_base(path)
        if model_size is not None and found_size != model_size:
            raise ArtifactError.of(
                str(path),
                got=found_size,
                expected=model_size,
                fix="give another base or model_size",
            )
        sam = build_sam(found_size, image_size or found_image_size)
        resized = resize_positions(state, found_size, image_size or found_image_size)
        fill(sam, resized, str(path))
    warn_if_damaged(path)
    return CpcSam(sam).eval()


def inspect_base(path: Path) -> tuple[str, int]:
    """Tell (model_size, image_size) of a base, checking every tensor's name and shape.

    Args:
        path: as for `load_base`.

    Raises:
        ArtifactError: as `load_base`.
        ConfigError: an image size that the contract does not know.
    """
    with named_if_official(path):
        state, model_size, image_size = _read_base(path)
        with torch.device("meta"):
            wanted = build_sam(model_size, image_size).state_dict()
        require_fit(state, wanted, str(path))
    return model_size, image_size


def save_base(
    model: CpcSam,
    path: Path,
    *,
    config: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    parents: Mapping[str, str] | None = None,
) -> None:
    """Publish the model's SAM as an artifact of kind `checkpoint`, in float16.

    Args:
        model: its CaPL, if any, is left out.
        path: the artifact's directory.
        config: the recipe; model_size and image_size are added.
        metrics: measured figures.
        parents: digests of what it was made from.

    Raises:
        ArtifactError: LoRA is still injected, or a weight is not finite in float16.
    """
    state = {name: tensor.half() for name, tensor in cpu_state(model.sam).items()}
    require_finite(state, str(path))
    full_config = {**(config or {}), **_sizes(model, state, str(path))}
    with publish(
        path, "checkpoint", parents=parents, config=full_config, metrics=dict(metrics or {})
    ) as staging:
        write_safetensors(state, staging / MODEL_FILE)


def base_digest(path: Path) -> str:
    """SHA-256 of a base's weights file: the name by which later stages know the base."""
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise ArtifactError.of(
            str(file), got="no such file", expected="a base's weights", fix="give the base's path"
        )
    return sha256_file(file)


def save_run(
    model: CpcSam,
    path: Path,
    *,
    base: Path,
    lora: LoraConfig,
    config: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    parents: Mapping[str, str] | None = None,
) -> None:
    """Publish what training changed as an artifact of kind `run`, in float32.

    Saved are LoRA and CaPL, whatever their `requires_grad` is just now, and every other
    parameter that requires gradients. An official base is named in the configuration.

    Args:
        model: LoRA injected by `inject_lora(model, lora)`, CaPL attached or None.
        path: the artifact's directory.
        base: where the base was loaded from; recorded with its digest.
        lora: what was injected; rank 0 for none.
        config: the training configuration; model_size, image_size, base, lora and capl are added.
        metrics: measured figures.
        parents: digests of data and the like; the base's is added.

    Raises:
        ArtifactError: the base is missing, or a weight is not finite.
    """
    trained = {
        name: parameter.detach().cpu().float().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad or is_lora_parameter(name) or name.startswith("capl.")
    }
    require_finite(trained, str(path))
    digest = base_digest(base)
    official = by_digest(digest)
    name = {} if official is None else {"official": official.file_name}
    full_config = {
        **(config or {}),
        **_sizes(model, cpu_state(model.sam), str(path)),
        "base": {"path": str(base), "sha256": digest, **name},
        "lora": asdict(lora),
        "capl": None if model.capl is None else asdict(model.capl.config),
    }
    with publish(
        path,
        "run",
        parents={**(parents or {}), "base": digest},
        config=full_config,
        metrics=dict(metrics or {}),
    ) as staging:
        write_safetensors(trained, staging / TRAINED_FILE)


def load_run(path: Path, base: Path | None = None) -> CpcSam:
    """Load a run on its base: LoRA injected and not merged, CaPL attached, evaluation mode.

    What the run trained requires gradients, the rest does not.

    Args:
        path: an artifact of kind `run`.
        base: where the base is now; None takes the path that the run recorded.

    Raises:
        ArtifactError: the run or its base is missing, altered or does not fit.
    """
    manifest = read_manifest(path, "run")
    config = manifest.config
    base = Path(_entry(config, "base", path)["path"]) if base is None else base
    if not base.exists():
        raise ArtifactError.of(
            f"base of {path}", got=f"nothing at {base}", expected="the base", fix="pass its path"
        )
    expected = config["base"]["sha256"]
    found = base_digest(base)
    if found != expected:
        raise ArtifactError.of(
            f"base of {path}",
            got=f"{base} with sha256 {found[:12]}",
            expected=expected[:12],
            fix="give the base that the run was trained on",
        )
    model = load_base(base, image_size=_entry(config, "image_size", path))
    inject_lora(model, _lora_config(config, path))
    capl = _capl_config(config, path)
    model.capl = None if capl is None else CaPL(capl)
    trained = read_safetensors(path / TRAINED_FILE)
    require_finite(trained, str(path))
    fill(model, {**model.state_dict(), **trained}, str(path))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    return model.eval()


def save_merged(
    model: FusedCpcSam,
    path: Path,
    *,
    parents: Mapping[str, str],
    config: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> None:
    """Publish a fused model as an artifact of kind `merged`, in float32.

    Args:
        model: what `fuse` returned.
        path: the artifact's directory.
        parents: digests of run and base.
        config: anything to record; model_size, image_size and capl are added.
        metrics: measured figures, such as the difference made by fusing.

    Raises:
        ArtifactError: a weight is not finite.
    """
    state = cpu_state(model)
    require_finite(state, str(path))
    full_config = {
        **(config or {}),
        **_sizes(model, cpu_state(model.sam), str(path)),
        "capl": None if model.fused_config is None else asdict(model.fused_config),
    }
    with publish(
        path, "merged", parents=parents, config=full_config, metrics=dict(metrics or {})
    ) as staging:
        write_safetensors(state, staging / MODEL_FILE)


def load_merged(path: Path) -> FusedCpcSam:
    """Load a fused model in evaluation mode; nothing requires gradients.

    Raises:
        ArtifactError: missing, altered, or its tensors do not fit its configuration.
    """
    config = read_manifest(path, "merged").config
    model = build_merged(
        _entry(config, "model_size", path),
        _entry(config, "image_size", path),
        _capl_config(config, path),
    )
    fill(model, read_safetensors(path / MODEL_FILE), str(path))
    return model.requires_grad_(False).eval()


def _read_base(path: Path) -> tuple[dict[str, Tensor], str, int]:
    """Read (state, model_size, image_size) of an artifact or an official file."""
    if path.is_dir():
        read_manifest(path, "checkpoint")
        state = read_safetensors(path / MODEL_FILE)
    else:
        state = read_pth(path)
    return state, *recognise(state, str(path))


def _sizes(model: CpcSam, state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    plain = {name.replace(".base_layer", ""): tensor for name, tensor in state.items()}
    return {"model_size": recognise(plain, source)[0], "image_size": model.image_size}


def _entry(config: Mapping[str, Any], name: str, path: Path) -> Any:
    try:
        return config[name]
    except KeyError as error:
        raise ArtifactError.of(
            f"{path}/manifest.json",
            got=f"a config without {name}",
            expected=name,
            fix="make the artifact anew",
        ) from error


def _capl_config(config: Mapping[str, Any], path: Path) -> CaplConfig | None:
    fields = _entry(config, "capl", path)
    return None if fields is None else _construct(CaplConfig, fields, path)


def _lora_config(config: Mapping[str, Any], path: Path) -> LoraConfig:
    fields = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in _entry(config, "lora", path).items()
    }
    return _construct(LoraConfig, fields, path)


def _construct(cls: type[Config], fields: Mapping[str, Any], path: Path) -> Config:
    try:
        return cls(**fields)
    except TypeError as error:
        raise ArtifactError.of(
            f"{path}/manifest.json",
            got=f"{cls.__name__} with {sorted(fields)}",
            expected=f"the fields of {cls.__name__}",
            fix="make the artifact anew with this version",
        ) from error
