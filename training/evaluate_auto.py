r"""Command: score segmentation by class names, prompted by a vocabulary and by no annotator.

Examples:
  python -m training.evaluate_auto --base weights/vit_t --vocabulary build/vocabulary \
      --bbbc038 /data/bbbc038v1 --ids val.txt --out scores.json
  python -m training.evaluate_auto --run runs/NAME/best --vocabulary build/of-that-run \
      --bbbc038 /data/bbbc038v1 --ids val.txt --no-capl

dice and iou are of a class's foreground in one image, averaged over the images that show or
are said to show the class; ap50 is COCO's average precision of its entities at IoU 0.5 over all
images. The overall figures are means over the classes. A vocabulary knows the classes by its
own names: rename them with --name if the images call them otherwise. training.report puts the files
of --out together: files of one --label are the seeds of one row.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cpcsam.artifacts.manifest import read_manifest, write_atomic
from cpcsam.automatic.config import ClassSearchConfig, MaskGeneratorConfig
from cpcsam.automatic.instance_mask import InstanceMask
from cpcsam.automatic.text_search import CropEncoder, segment_vocabulary
from cpcsam.automatic.vocabulary import Vocabulary
from cpcsam.automatic.vocabulary_io import load_vocabulary
from cpcsam.backends.protocol import Backend
from cpcsam.commands import ArgumentParser, parser_of, run_command, share
from cpcsam.errors import ConfigError
from cpcsam.model.sam import CpcSam
from cpcsam.model.torch_backend import TorchBackend
from training.data.sample import Sample
from training.data.source_options import (
    add_model_options,
    add_source_options,
    part_of,
    read_scored,
    require_model,
)
from training.evaluation.class_scores import score_segmentation
from training.evaluation.panels import panels_of, save_panels
from training.evaluation.text_classes import add_text_options, load_towers
from training.evaluation.torch_model import open_model

__all__ = ["evaluate_auto", "main", "segmenter"]

PROG = "python -m training.evaluate_auto"


def evaluate_auto(
    backend: Backend,
    vocabulary: Vocabulary,
    samples: Iterable[Sample],
    settings: ClassSearchConfig | None = None,
    names: dict[str, str] | None = None,
    towers: CropEncoder | None = None,
    everything: MaskGeneratorConfig | None = None,
) -> dict[str, Any]:
    """Segment images without prompts of an annotator and score the masks against the annotation.

    Args:
        backend: the model, with CaPL if it is to calibrate the generated prompts.
        vocabulary: made with this model.
        samples: annotated images; the annotation is compared with, and used for nothing else.
        settings: thresholds and tiling; None takes the defaults.
        names: the images' names of the vocabulary's classes, if they differ.
        towers: CLIP, for classes by text.
        everything: how the masks are made that are compared with texts.

    Returns:
        As `score_segmentation`.

    Raises:
        ArtifactError: the vocabulary has classes by text, and these are not their towers.
        DataError: no image shows a class of the vocabulary.
    """
    segment = segmenter(backend, vocabulary, settings, towers, everything)
    return score_segmentation(segment, vocabulary.all_names, samples, _called(vocabulary, names))


def segmenter(
    backend: Backend,
    vocabulary: Vocabulary,
    settings: ClassSearchConfig | None = None,
    towers: CropEncoder | None = None,
    everything: MaskGeneratorConfig | None = None,
) -> Callable[[Sample], list[InstanceMask]]:
    """Return a function that segments an image's entities by a vocabulary, without annotation."""
    return lambda sample: segment_vocabulary(
        sample.image, vocabulary, backend, settings, towers=towers, everything=everything
    )


def _called(vocabulary: Vocabulary, names: dict[str, str] | None) -> list[str]:
    """Return the images' names of the vocabulary's classes."""
    return [(names or {}).get(name, name) for name in vocabulary.all_names]


def _names(pairs: list[str], vocabulary: Vocabulary) -> dict[str, str]:
    """Parse pairs IMAGES=VOCABULARY into {VOCABULARY: IMAGES}."""
    names = {new: old for old, _, new in (pair.partition("=") for pair in pairs)}
    unknown = sorted(set(names) - set(vocabulary.all_names))
    if unknown or len(names) < len(pairs):
        raise ConfigError.of(
            "--name",
            got=", ".join(pairs),
            expected=f"IMAGES=VOCABULARY, once each of {', '.join(vocabulary.all_names)}",
            fix="correct the option",
        )
    return names


def _parser() -> ArgumentParser:
    parser = parser_of(PROG, __doc__)
    add_model_options(parser)
    parser.add_argument(
        "--vocabulary", type=Path, required=True, metavar="DIR", help="built with this model"
    )
    add_text_options(parser)
    add_source_options(parser, "test")
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="IMAGES=VOCABULARY",
        help="the images' name of a class and the vocabulary's",
    )
    parser.add_argument("--no-capl", action="store_true", help="switch the run's CaPL off")
    defaults = ClassSearchConfig()
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
    parser.add_argument(
        "--label", metavar="TEXT", help="row of a report (default: the model's name)"
    )
    parser.add_argument(
        "--setting", default="images", metavar="TEXT", help="of a report (default: images)"
    )
    parser.add_argument(
        "--out",
        type=_scores_file,
        metavar="FILE",
        help="write all scores as JSON, and pictures into the folder of its name",
    )
    return parser


def _scores_file(text: str) -> Path:
    """Argument type: a file whose name without its ending is free for the folder of pictures."""
    path = Path(text)
    pictures = path.with_suffix("") if path.name else path
    if path == pictures or path.is_dir() or pictures.is_file():
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected a file with an ending, such as scores.json, beside which a "
            "folder of its name without it can be"
        )
    return path


def _about(options: argparse.Namespace, model: CpcSam) -> dict[str, Any]:
    """Return label, training time and size of the model, for reports."""
    path, minutes, parameters = options.base, 0.0, 0
    if options.run is not None:
        path = options.run.parent if options.run.name == "best" else options.run
        minutes = read_manifest(options.run, "run", verify=False).metrics.get("elapsed_s", 0) / 60
        parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        "label": options.label or path.name,
        "setting": options.setting,
        "minutes": minutes,
        "parameters": parameters,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = _parser()

    def work(options: argparse.Namespace) -> None:
        require_model(parser, options)
        model, digest = open_model(options.base, options.run)
        vocabulary = load_vocabulary(options.vocabulary, digest)
        towers = None if options.clip is None else load_towers(options.clip)
        everything = MaskGeneratorConfig(points_per_side=options.points_per_side)
        settings = ClassSearchConfig(
            threshold=options.threshold,
            min_similarity=options.min_similarity,
            min_iou=options.min_iou,
            overlap=options.overlap,
        )
        samples = read_scored(options)
        backend = TorchBackend(CpcSam(model.sam) if options.no_capl else model)
        names = _names(options.name, vocabulary)
        shown = tqdm(samples, desc="segment", unit="image")
        scores = evaluate_auto(backend, vocabulary, shown, settings, names, towers, everything)
        if options.out is not None:
            panels = panels_of(
                samples,
                scores["per_image"],
                segmenter(backend, vocabulary, settings, towers, everything),
                _called(vocabulary, names),
            )
            document = {
                **_about(options, model),
                **part_of(options),
                "model": digest,
                "capl": model.capl is not None and not options.no_capl,
                "settings": asdict(settings),
                **scores,
                "panels": save_panels(panels, options.out.with_suffix("")),
            }
            write_atomic(options.out, (json.dumps(document, indent=2) + "\n").encode())
        brief = {key: scores[key] for key in ("images", "dice", "iou", "ap50", "classes")}
        print(json.dumps({**part_of(options), **brief}, indent=2))

    return run_command(parser, work, argv)


if __name__ == "__main__":
    sys.exit(main())
