r"""Command: build, extend and show vocabularies: classes as prototypes of a model's embeddings.

Examples:
  python -m training.vocabulary build --base weights/vit_t --bbbc038 /data/bbbc038v1 \
      --ids train.txt --share 0.1 --seed 0 --name entity=nucleus --out build/vocabulary
  python -m training.vocabulary build --run runs/NAME/best --dataset celebamask \
      --root /data/CelebAMask-HQ --classes base --tile 0 --out build/faces
  python -m training.vocabulary build --base weights/vit_t --clip build/clip \
      --text "nucleus|cell nucleus, mitotic cell" --not "nucleus=debris|dust" --out build/texts
  python -m training.vocabulary extend --base weights/vit_t --vocabulary build/vocabulary \
      --image cells.png --instances labels.png --name entity=cell --out build/both
  python -m training.vocabulary show build/vocabulary

A vocabulary belongs to the model that it was built with; another model refuses it. The support
set is a share of the images, drawn by the seed. Tiles are squares of the images, each shown to
the model at its full size, so small entities need small tiles; --tile 0 shows whole images.
By default they are the squares that the model was trained on, if it declares them.

--text names classes by texts, of which CLIP compares the embeddings with those of SAM's masks; with
a support set, its entities and the rest of its images calibrate the comparison. A class with both
examples and texts needs both to agree.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from cpcsam.artifacts.manifest import read_manifest
from cpcsam.automatic.config import MaskGeneratorConfig
from cpcsam.automatic.vocabulary import (
    BACKGROUND,
    VocabularyConfig,
    build_vocabulary,
    empty_vocabulary,
)
from cpcsam.automatic.vocabulary_io import load_vocabulary, save_vocabulary
from cpcsam.commands import ArgumentParser, parser_of, run_command, share
from cpcsam.errors import ConfigError
from cpcsam.model.torch_backend import TorchBackend
from cpcsam.scale import Scale
from training.data.sample import ENTITY, Sample
from training.data.source_options import (
    add_model_options,
    add_source_options,
    intensity_of,
    require_model,
    source_of,
)
from training.data.sources import account_line, read_source
from training.evaluation.text_classes import (
    add_text_options,
    calibrate,
    embed_classes,
    load_towers,
    parse_classes,
)
from training.evaluation.torch_model import (
    class_names,
    examples_of,
    open_model,
    support_set,
)

__all__ = ["build", "extend", "main", "show"]

PROG = "python -m training.vocabulary"
TILE = 128
"""Side of tiles for a model that declares no scale."""


def build(options: argparse.Namespace) -> None:
    """Build a vocabulary of all classes of a support set, of texts, or of both."""
    model, digest = open_model(options.base, options.run)
    texts = None
    if options.text is not None:
        if options.clip is None:
            raise ConfigError.of(
                "--clip", got="none", expected="towers", fix="export them: export.text_encoder"
            )
        towers = load_towers(options.clip)
        texts = embed_classes(parse_classes(options.text, options.negatives), towers)
    tile = _tile(options)
    if texts is not None and not (options.bbbc038 or options.image or options.dataset):
        vocabulary = replace(empty_vocabulary(digest), texts=texts, tile=tile)
        save_vocabulary(vocabulary, options.out)
        print(f"{options.out}: {', '.join(texts.names)} by text")
        return
    samples = _support(options)
    names = class_names(samples)
    vocabulary = build_vocabulary(
        _renamed(names, options.name),
        examples_of(_progress(samples, "embed"), names, TorchBackend(model), tile),
        model=digest,
        tile=tile,
        config=VocabularyConfig(options.prototypes, options.background),
    )
    if texts is not None:
        renames = [(old, new) for old, _, new in (one.partition("=") for one in options.name)]
        everything = MaskGeneratorConfig(points_per_side=options.points_per_side)
        texts = calibrate(
            texts,
            _progress(samples, "calibrate"),
            TorchBackend(model),
            towers,
            tile,
            everything,
            renames,
        )
        vocabulary = replace(vocabulary, texts=texts)
    support = {
        "share": options.share,
        "seed": options.seed,
        "support": [sample.name for sample in samples],
    }
    save_vocabulary(vocabulary, options.out, config=support)
    print(f"{options.out}: {', '.join(vocabulary.names)} from {len(samples)} annotated images")
    if texts is not None:
        print(f"by text: {', '.join(texts.names)}; logit scale {texts.logit_scale:.3g}")


def extend(options: argparse.Namespace) -> None:
    """Add the classes of a few annotated images to a vocabulary."""
    model, digest = open_model(options.base, options.run)
    vocabulary = load_vocabulary(options.vocabulary, digest)
    recorded = dict(read_manifest(options.vocabulary, verify=False).config)
    samples = _support(options)
    names = class_names(samples)
    for name, new in zip(names, _renamed(names, options.name), strict=True):
        shown = _progress(samples, f"embed {new}")
        examples = examples_of(shown, (name,), TorchBackend(model), vocabulary.tile)
        vocabulary = vocabulary.extend(new, examples)
    added = {"added": [*recorded.get("added", []), *(sample.name for sample in samples)]}
    save_vocabulary(vocabulary, options.out, config={**recorded, **added})
    print(f"{options.out}: {', '.join(vocabulary.names)}; {len(names)} new")


def show(options: argparse.Namespace) -> None:
    """Print a vocabulary's classes, prototypes and calibration."""
    vocabulary = load_vocabulary(options.path)
    config = read_manifest(options.path, verify=False).config
    print(f"model       {vocabulary.model}")
    tile = f"{vocabulary.tile} pixels" if vocabulary.tile else "whole images"
    print(f"tiles       {tile}")
    print(
        f"support     {len(config.get('support', []))} images, {len(config.get('added', []))} added"
    )
    for index, name in enumerate(vocabulary.names):
        count = int((vocabulary.owners == index).sum())
        slope, intercept = vocabulary.calibration[index]
        curve = f"p = 1/(1+exp(-({slope:.2f} m {intercept:+.2f})))"
        print(f"class       {name}: {count} prototypes, {curve}")
    if vocabulary.texts is not None:
        towers, scale = vocabulary.texts.towers, vocabulary.texts.logit_scale
        for known in vocabulary.texts.classes:
            against = f", not {' | '.join(known.negatives)}" if known.negatives else ""
            print(f"by text     {known.name}: {' | '.join(known.texts)}{against}")
        print(f"towers      {towers}, logit scale {scale:.3g}")
    print(f"background  {int((vocabulary.owners <= BACKGROUND).sum())} prototypes")


def _support(options: argparse.Namespace) -> Sequence[Sample]:
    """Read the source, print what was left out of it, and draw the support set."""
    samples = read_source(source_of(options), "source", intensity_of(options))
    print(account_line(samples, "source"))
    return support_set(samples, options.share, options.seed)


def _tile(options: argparse.Namespace) -> int:
    """Return --tile, by default the window that the run or base declares, else `TILE`."""
    if options.tile is not None:
        return int(options.tile)
    path = options.run or options.base
    # An official checkpoint is a file, which declares nothing.
    config = read_manifest(path, verify=False).config if path.is_dir() else {}
    scale = Scale.of_manifest(config)
    return TILE if scale is None else scale.window or 0


def _progress(samples: Sequence[Sample], what: str) -> tqdm[Sample]:
    return tqdm(samples, desc=what, unit="image")


def _renamed(names: Sequence[str], renames: Sequence[str]) -> tuple[str, ...]:
    """Apply OLD=NEW to class names."""
    new = dict(rename.partition("=")[::2] for rename in renames)
    unknown = set(new) - set(names)
    if unknown or "" in new.values():
        raise ConfigError.of(
            "--name",
            got=", ".join(renames),
            expected=f"OLD=NEW with OLD one of {', '.join(names)}",
            fix="correct the option",
        )
    renamed = tuple(new.get(name, name) for name in names)
    if len(set(renamed)) < len(renamed):
        raise ConfigError.of(
            "--name",
            got=", ".join(renames),
            expected="a name for each class",
            fix="join classes in the annotations",
        )
    return renamed


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number")
    return int(text)


def _add_common(parser: argparse.ArgumentParser, default_share: float) -> None:
    add_model_options(parser)
    add_source_options(parser)
    parser.add_argument(
        "--share",
        type=share,
        default=default_share,
        help=f"part of the images that is the support set (default: {default_share})",
    )
    parser.add_argument("--seed", type=_whole, default=0, help="draws it (default: 0)")
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help=f"call a class otherwise; images without classes have the class {ENTITY}",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")


def _parser() -> ArgumentParser:
    parser = parser_of(PROG, __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    made = commands.add_parser("build", help="make one", description=build.__doc__)
    _add_common(made, 0.1)
    made.add_argument(
        "--tile",
        type=_whole,
        metavar="PX",
        help=f"side of tiles, 0 for whole images (default: the model's window, {TILE} if it "
        "declares none)",
    )
    made.add_argument(
        "--text",
        metavar="TEXTS",
        help="classes by text, with commas between them; synonyms of a class with | between them",
    )
    made.add_argument(
        "--not",
        dest="negatives",
        action="append",
        default=[],
        metavar="NAME=TEXTS",
        help="what a class by text must not be taken for, with | between texts",
    )
    add_text_options(made)
    defaults = VocabularyConfig()
    for name in ("prototypes", "background"):
        made.add_argument(
            f"--{name}",
            type=_whole,
            default=getattr(defaults, name),
            metavar="N",
            help=f"largest number of prototypes {'a class' if name == 'prototypes' else 'of it'} "
            f"(default: {getattr(defaults, name)})",
        )
    more = commands.add_parser("extend", help="add classes", description=extend.__doc__)
    _add_common(more, 1.0)
    more.add_argument(
        "--vocabulary", type=Path, required=True, metavar="DIR", help="what to extend"
    )
    shown = commands.add_parser("show", help="print one", description=show.__doc__)
    shown.add_argument("path", type=Path, metavar="DIR", help="the vocabulary")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = _parser()
    commands = {"build": build, "extend": extend, "show": show}

    def work(options: argparse.Namespace) -> None:
        if options.command != "show":
            require_model(parser, options)
        commands[options.command](options)

    return run_command(parser, work, argv)


if __name__ == "__main__":
    sys.exit(main())
