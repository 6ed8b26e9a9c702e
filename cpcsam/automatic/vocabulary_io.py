"""Vocabularies on disk: artifacts of kind `vocabulary`, which name the model they belong to."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from cpcsam.artifacts.manifest import Manifest, publish, read_manifest
from cpcsam.automatic.vocabulary import Vocabulary, VocabularyConfig
from cpcsam.clip.text_classes import TextClass, TextClasses
from cpcsam.errors import ArtifactError

__all__ = ["OtherModelError", "load_vocabulary", "save_vocabulary"]

VOCABULARY_FILE: Final = "vocabulary.safetensors"
CLIP: Final = "clip"
"""Role of the parent whose digest is that of CLIP's towers."""
TEXTS: Final = "texts"
TEXT_ARRAYS: Final = ("embeddings", "owners")
ARRAYS: Final = ("mean", "metric", "prototypes", "owners", "calibration")


class OtherModelError(ArtifactError):
    """A vocabulary was made with another model.

    Attributes:
        made_with: digest of that model.
        model: digest of the one that it was to be used with.
    """

    made_with: str = ""
    model: str = ""


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

    own: dict[str, Any] = {
        "names": list(vocabulary.names),
        "tile": vocabulary.tile,
        "vocabulary": asdict(vocabulary.config),
    }
    parents = {"model": vocabulary.model}
    arrays = {name: np.ascontiguousarray(getattr(vocabulary, name)) for name in ARRAYS}
    if vocabulary.texts is not None:
        texts = vocabulary.texts
        parents[CLIP] = texts.towers
        own[TEXTS] = {
            "logit_scale": texts.logit_scale,
            "classes": [asdict(known) for known in texts.classes],
        }
        arrays |= {f"{TEXTS}_{name}": getattr(texts, name) for name in TEXT_ARRAYS}
    with publish(
        path,
        "vocabulary",
        parents=parents,
        config={**(config or {}), **own},
        metrics=metrics,
    ) as staging:
        save_file(arrays, staging / VOCABULARY_FILE)


def load_vocabulary(path: Path, model: str | None = None) -> Vocabulary:
    """Read a vocabulary.

    Args:
        path: an artifact of kind `vocabulary`.
        model: digest of the model it is to be used with, to which a vocabulary without classes
            belongs like to any other; None accepts any.

    Raises:
        ArtifactError: missing, altered or incomplete.
        OtherModelError: made with another model.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    manifest = read_manifest(path, "vocabulary")
    try:
        arrays = load_file(path / VOCABULARY_FILE)
        vocabulary = Vocabulary(
            model=manifest.parents.get("model", "none"),
            names=tuple(manifest.config["names"]),
            tile=int(manifest.config["tile"]),
            config=VocabularyConfig(**manifest.config["vocabulary"]),
            texts=_texts(manifest, arrays),
            **{name: arrays[name] for name in ARRAYS},
        )
    except (KeyError, TypeError, OSError, SafetensorError) as error:
        raise ArtifactError.of(
            str(path),
            got=f"an unreadable vocabulary ({error})",
            expected=f"{VOCABULARY_FILE} and its configuration",
            fix="build it again with this version",
        ) from error
    if model is None or vocabulary.model == model:
        return vocabulary
    if not vocabulary.all_names:
        return replace(vocabulary, model=model)
    other = OtherModelError.of(
        f"vocabulary {path}",
        got=f"one made with model {vocabulary.model[:12]}",
        expected=f"one made with model {model[:12]}",
        fix="build it again with this model, or give the model it was made with",
    )
    other.made_with, other.model = vocabulary.model, model
    raise other


def _texts(manifest: Manifest, arrays: dict[str, Any]) -> TextClasses | None:
    stated = manifest.config.get(TEXTS)
    if stated is None:
        return None
    classes = (
        TextClass(known["name"], tuple(known["texts"]), tuple(known["negatives"]))
        for known in stated["classes"]
    )
    return TextClasses(
        manifest.parents[CLIP],
        float(stated["logit_scale"]),
        tuple(classes),
        **{name: arrays[f"{TEXTS}_{name}"] for name in TEXT_ARRAYS},
    )
