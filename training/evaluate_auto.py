"""Score segmentation without annotators: a vocabulary prompts, the model answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cpcsam.artifact import write_atomic
from cpcsam.automatic import Model, segment_image
from cpcsam.command import ArgumentParser, exit_code_of
from cpcsam.errors import ConfigError, DataError
from cpcsam.model.sam import CpcSam
from cpcsam.tile_search import AutoSettings
from cpcsam.vocabulary import Vocabulary
from cpcsam.vocabulary_file import load_vocabulary
from training.data import Sample
from training.entity_metrics import (
    Detection,
    average_precision,
    foreground_scores,
    match_entities,
)
from training.graphs import TorchGraphs, open_model
from training.source_options import (
    add_model_options,
    add_source_options,
    require_model,
    share,
    source_of,
)
from training.sources import read_source

__all__ = ["evaluate_auto", "main"]

PROG = "python -m training.evaluate_auto"
EXAMPLES = """examples:
  python -m training.evaluate_auto --base weights/vit_t --vocabulary build/vocabulary \\
      --bbbc038 /data/bbbc038v1 --ids val.txt --out scores.json
  python -m training.evaluate_auto --run runs/NAME/best --vocabulary build/of-that-run \\
      --bbbc038 /data/bbbc038v1 --ids val.txt --no-capl

dice and iou are of a class's foreground in one image, averaged over the images that show or
are said to show the class; ap50 is COCO's average precision of its entities at IoU 0.5 over all
images. The overall figures are means over the classes. A vocabulary knows the classes by its
own names: rename them with --name if the images call them otherwise.
"""


def evaluate_auto(
    model: Model,
    vocabulary: Vocabulary,
    samples: Iterable[Sample],
    settings: AutoSettings | None = None,
    names: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Segment images without any prompt of an annotator and compare with the truth.

    Args:
        model: with CaPL, if it is to calibrate the generated prompts.
        vocabulary: made with this model.
        samples: annotated images; the annotation is compared with, and used for nothing else.
        settings: how entities are looked for; None takes the defaults.
        names: what the images call the vocabulary's classes where they differ.

    Returns:
        `images`, `dice`, `iou`, `ap50`; `classes` with these and `entities` and `found` of each;
        `per_image`: name, class, dice, iou, entities and found, one entry an image and class.

    Raises:
        DataError: no image shows a class of the vocabulary.
    """
    called = [(names or {}).get(name, name) for name in vocabulary.names]
    per_image: list[dict[str, Any]] = []
    detections: list[list[Detection]] = [[] for _ in called]
    images = 0
    for sample in samples:
        images += 1
        masks = segment_image(sample.image, vocabulary, model, settings)
        for index, name in enumerate(called):
            truth = _entities_of(sample, name)
            found = [mask for mask in masks if mask.class_index == index]
            entities = len(np.unique(truth[truth > 0]))
            if not entities and not found:
                continue
            foreground = np.zeros(truth.shape, bool)
            for mask in found:
                area = mask.area
                foreground[area.top : area.bottom, area.left : area.right] |= mask.mask
            dice, iou = foreground_scores(foreground, truth > 0)
            scores = {"dice": dice, "iou": iou, "entities": entities, "found": len(found)}
            per_image.append({"name": sample.name, "class": vocabulary.names[index], **scores})
            detections[index] += match_entities(found, truth)
    classes = {
        name: _summary([row for row in per_image if row["class"] == name], detections[index])
        for index, name in enumerate(vocabulary.names)
        if any(row["class"] == name and row["entities"] for row in per_image)
    }
    if not classes:
        raise DataError.of(
            "images",
            got="no entity of a known class",
            expected=f"entities of {', '.join(called)}",
            fix="give other images, or name the classes with --name",
        )
    means = {
        key: float(np.mean([scores[key] for scores in classes.values()]))
        for key in ("dice", "iou", "ap50")
    }
    return {"images": images, **means, "classes": classes, "per_image": per_image}


def _entities_of(sample: Sample, name: str) -> np.ndarray[Any, np.dtype[np.int32]]:
    """The label image with the entities of one class alone."""
    labels = np.unique(sample.instances)
    chosen = [label for label in labels if label and sample.class_of(int(label)) == name]
    return np.where(np.isin(sample.instances, chosen), sample.instances, 0)


def _summary(rows: list[dict[str, Any]], detections: list[Detection]) -> dict[str, Any]:
    entities = sum(row["entities"] for row in rows)
    return {
        "images": len(rows),
        "dice": float(np.mean([row["dice"] for row in rows])),
        "iou": float(np.mean([row["iou"] for row in rows])),
        "ap50": average_precision(detections, entities),
        "entities": entities,
        "found": len(detections),
    }


def _names(pairs: list[str], vocabulary: Vocabulary) -> dict[str, str]:
    """OLD=NEW of the images' names to {NEW: OLD}."""
    names = {new: old for old, _, new in (pair.partition("=") for pair in pairs)}
    unknown = sorted(set(names) - set(vocabulary.names))
    if unknown:
        raise ConfigError.of(
            "--name",
            got=", ".join(pairs),
            expected=f"IMAGES=VOCABULARY, the latter one of {', '.join(vocabulary.names)}",
            fix="correct the option",
        )
    return names


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog=PROG, description=__doc__, epilog=EXAMPLES)
    add_model_options(parser)
    parser.add_argument(
        "--vocabulary", type=Path, required=True, metavar="DIR", help="built with this model"
    )
    add_source_options(parser)
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="IMAGES=VOCABULARY",
        help="the images' name of a class and the vocabulary's",
    )
    parser.add_argument("--no-capl", action="store_true", help="switch the run's CaPL off")
    defaults = AutoSettings()
    for name, meaning in (
        ("threshold", "similarity from which a place is prompted"),
        ("min_similarity", "least similarity under a mask"),
        ("min_iou", "least predicted IoU of a mask"),
        ("overlap", "of neighbouring tiles, as a part of their side"),
    ):
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=share,
            default=getattr(defaults, name),
            metavar="0..1",
            help=f"{meaning} (default: {getattr(defaults, name)})",
        )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all scores as JSON")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = _parser()
    options = parser.parse_args(arguments)
    require_model(parser, options)

    def command() -> None:
        model, digest = open_model(options.base, options.run)
        vocabulary = load_vocabulary(options.vocabulary, digest)
        settings = AutoSettings(
            threshold=options.threshold,
            min_similarity=options.min_similarity,
            min_iou=options.min_iou,
            overlap=options.overlap,
        )
        samples = read_source(source_of(options), "source")
        scores = evaluate_auto(
            TorchGraphs(CpcSam(model.sam) if options.no_capl else model),
            vocabulary,
            tqdm(samples, desc="segment", unit="image"),
            settings,
            _names(options.name, vocabulary),
        )
        about = {"model": digest, "capl": model.capl is not None and not options.no_capl}
        document = {**about, "settings": asdict(settings), **scores}
        if options.out is not None:
            write_atomic(options.out, (json.dumps(document, indent=2) + "\n").encode())
        brief = {key: scores[key] for key in ("images", "dice", "iou", "ap50", "classes")}
        print(json.dumps(brief, indent=2))

    return exit_code_of(command, PROG)


if __name__ == "__main__":
    sys.exit(main())
