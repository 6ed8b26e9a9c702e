"""Vocabularies on disk: artifacts of kind `vocabulary`, which name the model they belong to."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from cpcsam.artifacts.manifest import publish, read_manifest
from cpcsam.automatic.vocabulary import Vocabulary, VocabularyConfig
from cpcsam.errors import ArtifactError

__all__ = ["load_vocabulary", "save_vocabulary"]

VOCABULARY_FILE: Final = "vocabulary.safetensors"
ARRAYS: Final = ("mean", "metric", "prototypes", "owners", "calibration")


def save_vocabulary(
    vocabulary: Vocabulary,
    path: Path,
    *,
    config: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
) -> None:
    """Publish a vocabulary as an artifact of kind `vocabulary` whose parent is its model.

    Args:
        vocabulary: what to save.
        path: the artifact's directory.
        config: further entries to record, such as the support set's names.
        metrics: measured figures.
    """
    from safetensors.numpy import save_file

    own = {
        "names": list(vocabulary.names),
        "tile": vocabulary.tile,
        "vocabulary": asdict(vocabulary.config),
    }
    with publish(
        path,
        "vocabulary",
        parents={"model": vocabulary.model},
        config={**(config or {}), **own},
        metrics=metrics,
    ) as staging:
        arrays = {name: np.ascontiguousarray(getattr(vocabulary, name)) for name in ARRAYS}
        save_file(arrays, staging / VOCABULARY_FILE)


def load_vocabulary(path: Path, model: str | None = None) -> Vocabulary:
    """Read a vocabulary.

    Args:
        path: an artifact of kind `vocabulary`.
        model: digest of the model it is to be used with; None accepts any.

    Raises:
        ArtifactError: missing, altered, incomplete, or made with another model.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    manifest = read_manifest(path, "vocabulary")
    made_with = manifest.parents.get("model", "none")
    if model is not None and made_with != model:
        raise ArtifactError.of(
            f"vocabulary {path}",
            got=f"one made with model {made_with[:12]}",
            expected=f"one made with model {model[:12]}",
            fix="build it again with this model, or give the model it was made with",
        )
    try:
        arrays = load_file(path / VOCABULARY_FILE)
        return Vocabulary(
            model=made_with,
            names=tuple(manifest.config["names"]),
            tile=int(manifest.config["tile"]),
            config=VocabularyConfig(**manifest.config["vocabulary"]),
            **{name: arrays[name] for name in ARRAYS},
        )
    except (KeyError, TypeError, OSError, SafetensorError) as error:
        raise ArtifactError.of(
            str(path),
            got=f"an unreadable vocabulary ({error})",
            expected=f"{VOCABULARY_FILE} and its configuration",
            fix="build it again with this version",
        ) from error
