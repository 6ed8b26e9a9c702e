"""Weights on disk: training runs and merged models; bases are in `cpcsam.model.base_checkpoint`.

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

from cpcsam.artifacts.manifest import publish, read_manifest
from cpcsam.config import from_dict
from cpcsam.errors import ArtifactError, ConfigError
from cpcsam.model.base_checkpoint import MODEL_FILE, base_digest, load_base, sizes_of
from cpcsam.model.capl import CaPL, CaplConfig
from cpcsam.model.fusion import FusedCpcSam, build_merged
from cpcsam.model.lora import LoraConfig, inject_lora, is_lora_parameter
from cpcsam.model.official_checkpoints import by_digest
from cpcsam.model.sam import CpcSam
from cpcsam.model.state_dict import (
    cpu_state,
    fill,
    read_safetensors,
    require_finite,
    write_safetensors,
)

__all__ = ["TRAINED_FILE", "load_merged", "load_run", "save_merged", "save_run"]

TRAINED_FILE: Final = "trained.safetensors"
BEFORE_FORMS: Final = {"entity": True, "reweights": True, "point_form": "offset"}
"""Parts of a CaPL whose manifest does not name them: there was no choice when it was written."""

Config = TypeVar("Config", CaplConfig, LoraConfig)


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
        **sizes_of(model, str(path)),
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

    Parameters that the run trained require gradients, the others do not.

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
    digest = base_digest(base)
    if digest != expected:
        raise ArtifactError.of(
            f"base of {path}",
            got=f"{base} with sha256 {digest[:12]}",
            expected=expected[:12],
            fix="give the base that the run was trained on",
        )
    # Training may have used another image size than the base's file.
    model = load_base(base, image_size=_entry(config, "image_size", path))
    inject_lora(model, _recorded(LoraConfig, config, "lora", path))
    capl = _capl_config(config, path)
    model.capl = None if capl is None else CaPL(capl)
    trained = read_safetensors(path / TRAINED_FILE)
    require_finite(trained, str(path))
    # A run holds only what training changed; the base supplies the rest.
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
        **sizes_of(model, str(path)),
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
    state = read_safetensors(path / MODEL_FILE)
    model = build_merged(
        _entry(config, "model_size", path),
        _entry(config, "image_size", path),
        _capl_config(config, path),
        calibrates="given_no_mask_embed" in state,
    )
    fill(model, state, str(path))
    return model.requires_grad_(False).eval()


def _entry(config: Mapping[str, Any], name: str, path: Path) -> Any:
    try:
        return config[name]
    except KeyError as error:
        raise ArtifactError.of(
            f"{path}/manifest.json",
            got=f"a config without {name}",
            expected=name,
            fix="make the artifact again",
        ) from error


def _capl_config(config: Mapping[str, Any], path: Path) -> CaplConfig | None:
    recorded = _entry(config, "capl", path)
    if recorded is None:
        return None
    return _recorded(CaplConfig, {"capl": {**BEFORE_FORMS, **recorded}}, "capl", path)


def _recorded(cls: type[Config], config: Mapping[str, Any], name: str, path: Path) -> Config:
    try:
        return from_dict(cls, _entry(config, name, path), name)
    except ConfigError as error:
        raise ArtifactError(f"{path}/manifest.json: {error}") from error
