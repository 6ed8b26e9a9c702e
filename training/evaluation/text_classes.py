"""Classes by text for a vocabulary: parsed, embedded, and calibrated on a support set."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.artifacts.manifest import read_manifest
from cpcsam.automatic.config import MaskGeneratorConfig
from cpcsam.automatic.instance_mask import InstanceMask, bbox_from_mask
from cpcsam.automatic.mask_generator import AutomaticMaskGenerator
from cpcsam.automatic.text_search import CropEncoder, embed_boxes
from cpcsam.backends.protocol import Backend
from cpcsam.clip.onnx_towers import CLIP_KIND, OnnxTowers
from cpcsam.clip.preprocess import ClipInfo
from cpcsam.clip.text_classes import TextClass, TextClasses, phrases_of, pool_phrases
from cpcsam.commands import count
from cpcsam.errors import ConfigError
from cpcsam.geometry import Box
from training.data.sample import Sample

__all__ = ["add_text_options", "calibrate", "embed_classes", "load_towers", "parse_classes"]

SCALES: Final = np.geomspace(1.0, 300.0, 115)
"""Logit scales among which `calibrate` chooses; neighbours differ by 5 %."""
COVERED: Final = 0.1
"""Part of a mask on entities beyond which it is not taken for background."""


def add_text_options(parser: argparse.ArgumentParser) -> None:
    """Add --clip and --points-per-side."""
    text = "exported towers, by export.text_encoder, for classes by text"
    parser.add_argument("--clip", type=Path, metavar="DIR", help=text)
    default = MaskGeneratorConfig.points_per_side
    text = f"side of the grid of clicks for the masks that are compared (default: {default})"
    parser.add_argument("--points-per-side", type=count, default=default, metavar="N", help=text)


def parse_classes(texts: str, negatives: Sequence[str] = ()) -> list[TextClass]:
    """Read classes by text from options.

    Args:
        texts: classes with commas between them, synonyms with | between them; a class is named by
            its first text.
        negatives: NAME=TEXT|TEXT each; those of one name add up.

    Raises:
        ConfigError: an empty text, a name twice, or negatives of another class.
    """
    parts = [tuple(map(str.strip, part.split("|"))) for part in texts.split(",")]
    names = [part[0] for part in parts]
    if not all(all(part) for part in parts) or len(set(names)) < len(names):
        raise ConfigError.of(
            "--text",
            got=repr(texts),
            expected="different classes such as 'nucleus|cell nucleus, mitotic cell'",
            fix="correct the option",
        )
    against: dict[str, tuple[str, ...]] = {}
    for stated in negatives:
        name, _, given = stated.partition("=")
        name, others = name.strip(), tuple(map(str.strip, given.split("|")))
        against[name] = (*against.get(name, ()), *others)
        if name not in names or not all(others):
            raise ConfigError.of(
                "--not",
                got=repr(stated),
                expected=f"NAME=TEXT|TEXT with NAME one of {', '.join(names)}",
                fix="correct the option",
            )
    return [TextClass(part[0], part, against.get(part[0], ())) for part in parts]


def load_towers(path: Path) -> OnnxTowers:
    """Load exported towers.

    Raises:
        ArtifactError: the directory is no artifact of kind `clip`, or was altered.
    """
    manifest = read_manifest(path, CLIP_KIND)
    return OnnxTowers(path, ClipInfo.of_json(str(manifest.config.get("clip", ""))))


def embed_classes(classes: Sequence[TextClass], towers: OnnxTowers) -> TextClasses:
    """Embed the texts of classes, with the logit scale of the towers."""
    info = towers.info
    known = TextClasses.empty(info.digest, info.logit_scale, info.embed_dim)
    for new in classes:
        phrases = phrases_of(new.all_texts)
        known = known.add(new, pool_phrases(towers.embed_texts(phrases)))
    return known


def calibrate(
    texts: TextClasses,
    samples: Iterable[Sample],
    backend: Backend,
    towers: CropEncoder,
    tile: int,
    everything: MaskGeneratorConfig,
    renames: Sequence[tuple[str, str]] = (),
) -> TextClasses:
    """Fit the logit scale, the inverse temperature, by binary cross-entropy on a support set.

    Of each image, the crops are those of the entities and of SAM's masks of everything that cover
    no entity. Nothing changes if no entity has a class by text.

    Args:
        texts: the classes.
        samples: the annotated images.
        backend: SAM.
        towers: that embedded the texts.
        tile: side of the tiles; 0 shows whole images.
        everything: how SAM's masks are made.
        renames: (the samples' name of a class, its name).

    Returns:
        The classes with the fitted scale.
    """
    called = dict(renames)
    crops, targets = [], []
    generator = AutomaticMaskGenerator(backend, everything)
    for sample in samples:
        labels = [int(label) for label in np.unique(sample.instances) if label]
        entities = {label: bbox_from_mask(sample.instances == label) for label in labels}
        others = [
            mask.bbox
            for mask in generator.generate(sample.image, tile)
            if not _covers_any(mask, sample.instances)
        ]
        names = [sample.class_of(label) for label in entities]
        row = [called.get(name, name) for name in names] + [""] * len(others)
        targets += [[name == one.name for one in texts.classes] for name in row]
        crops.append(embed_boxes(sample.image, [*entities.values(), *others], towers))
    target = np.array(targets, bool).reshape(-1, len(texts.classes))
    if not target.any():
        return texts
    embedded = np.concatenate(crops)
    losses = [_loss(replace(texts, logit_scale=scale), embedded, target) for scale in SCALES]
    return replace(texts, logit_scale=float(SCALES[int(np.argmin(losses))]))


def _loss(texts: TextClasses, crops: NDArray[np.float32], target: NDArray[np.bool_]) -> float:
    likely = texts.probabilities(crops).astype(np.float64).clip(1e-7, 1 - 1e-7)
    return float(-np.where(target, np.log(likely), np.log(1 - likely)).mean())


def _covers_any(mask: InstanceMask, instances: NDArray[np.int32]) -> bool:
    """Return whether a mask lies on entities by more than a small part."""
    shown = mask.in_region(Box(0, 0, *instances.shape))
    return bool((shown & (instances > 0)).sum() > COVERED * shown.sum())
