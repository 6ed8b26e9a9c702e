r"""Command: score a run by clicks: the base, the run, and the run with CaPL switched off.

Examples:
  python -m training.evaluate --base weights/vit_t --bbbc038 /data/bbbc038v1 --ids val.txt
  python -m training.evaluate --run runs/demo/best --image nuclei.tif --instances labels.tif \
      --region 256,0,512,512 --out scores.json
  python -m training.evaluate --run runs/NAME/best --dataset coco --root /data/own

Every entity is clicked twice: accurately, on the pixel nearest its centroid, and carelessly, half
of the clicks anywhere on the entity and half up to 5 pixels outside it. Both score the
base, the run, and the run with CaPL switched off (no_capl). capl_weight_change is mean |w - 1| over
the accurate clicks' embeddings, capl_bias mean |C| over the five cross-attentions, and
click_moves_px by how many pixels each kind of click is moved.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from cpcsam.artifacts.manifest import read_manifest, write_atomic
from cpcsam.commands import ArgumentParser, count, count_from_0, parser_of, run_command
from cpcsam.contract import PointLabel
from cpcsam.errors import DataError
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.decoder import DecoderTrace
from cpcsam.model.point_calibration import sample_embeddings
from cpcsam.model.run_checkpoint import load_run
from cpcsam.model.sam import CpcSam
from cpcsam.scale import Scale
from training.bilevel.losses import bias_magnitude
from training.data.augment import whole_window
from training.data.prompt_sampling import PromptMix
from training.data.sample import Sample, entity_windows
from training.data.source_options import (
    add_model_options,
    add_source_options,
    part_of,
    read_scored,
    require_model,
)
from training.data.sources import validation_windows
from training.evaluation.one_click import (
    CLICKS,
    entity_clicks,
    one_click,
    scores_by_click,
    without_masks,
)

__all__ = ["capl_magnitudes", "evaluate", "main"]

PROG = "python -m training.evaluate"


def evaluate(
    run: Path | None, base: Path | None, samples: Sequence[Sample], min_area: int = 30
) -> dict[str, Any]:
    """Score base and run on square samples.

    Args:
        run: an artifact of kind `run`; None scores the base alone.
        base: of the run; None takes the path that the run recorded.
        samples: square samples.
        min_area: entities of fewer pixels are left out.

    Returns:
        `entities`; `accurate` and `careless`, by kind of click, each the scores of `base` and, with
        a run, of `run` and `no_capl`; with a run also `capl_weight_change`, `capl_bias` and
        `click_moves_px`, by kind of click.

    Raises:
        ArtifactError: run or base cannot be used.
        DataError: there is no entity to click on.
    """
    if not any(entity_clicks(sample, min_area) for sample in samples):
        raise DataError.of(
            "images",
            got=f"no entity of {min_area} pixels",
            expected="annotated entities",
            fix="give other images or lower --min-area",
        )
    figures: dict[str, Any] = {}
    if run is None:
        assert base is not None
        models = {"base": load_base(base)}
    else:
        model = load_run(run, base)
        config = read_manifest(run, "run", verify=False).config
        base_path = Path(config["base"]["path"]) if base is None else base
        models = {
            # At the run's image size: scores at different sizes do not compare.
            "base": load_base(base_path, image_size=model.image_size),
            "run": model,
            # Shares SAM's weights with the run, LoRA included.
            "no_capl": CpcSam(model.sam).eval(),
        }
        weight_change, bias = capl_magnitudes(model, samples, min_area)
        moves = {
            kind: mean_move(model, samples, min_area, annotator)
            for kind, annotator in CLICKS.items()
        }
        figures = {
            "capl_weight_change": weight_change,
            "capl_bias": bias,
            "click_moves_px": moves,
        }

    scores = {
        name: scores_by_click(
            without_masks(one_click(model, samples, min_area, tuple(CLICKS.values())))
        )
        for name, model in models.items()
    }
    clicks = {
        kind: {name: asdict(by_click[kind]) for name, by_click in scores.items()} for kind in CLICKS
    }
    return {"entities": clicks["accurate"]["base"]["entities"], **clicks, **figures}


@torch.no_grad()
def capl_magnitudes(
    model: CpcSam, samples: Sequence[Sample], min_area: int = 30
) -> tuple[float, float]:
    """Measure CaPL's distance from the identity, with a click per entity.

    Returns:
        Mean |w − 1| over the clicks' embeddings, and mean |C| over the five cross-attentions and
        all tokens, both averaged over entities; 0 for a module that the model lacks.
    """
    changes, biases = [], []
    for sample in samples:
        clicks = entity_clicks(sample, min_area).values()
        if model.capl is None or not clicks:
            continue
        window = whole_window(sample, model.image_size)
        input_size = torch.full((1, 2), model.image_size, dtype=torch.int32)
        embeddings = model.encode_image(window.image[None], input_size)
        for click in clicks:
            coords = torch.tensor(click).reshape(1, 1, 1, 2) * window.scale
            labels = torch.full((1, 1, 1), int(PointLabel.FOREGROUND))
            moved = model.calibrate_points(embeddings, coords, labels)
            if model.capl.task is not None:
                change, _ = model.capl.task.weights(
                    model.embed_points(moved, labels), sample_embeddings(embeddings, moved)
                )
                changes.append(float(change.abs().mean()))
            sparse, token_mask = model.encode_points(embeddings, moved, labels)
            trace = DecoderTrace()
            model.decode_masks(embeddings, sparse, token_mask, trace=trace)
            sites = [*trace.token_to_image_biases, *trace.image_to_token_biases]
            biases.append(float(bias_magnitude(sites, token_mask)))
    return _mean(changes), _mean(biases)


@torch.no_grad()
def mean_move(
    model: CpcSam, samples: Sequence[Sample], min_area: int, annotator: PromptMix
) -> float:
    """Average the distance by which CaPL moves an annotator's clicks, in pixels of the samples."""
    distances: list[float] = []
    for sample in samples:
        clicks = list(entity_clicks(sample, min_area, annotator).values())
        if not clicks:
            continue
        window = whole_window(sample, model.image_size)
        input_size = torch.full((1, 2), model.image_size, dtype=torch.int32)
        embeddings = model.encode_image(window.image[None], input_size)
        coords = torch.tensor(clicks).reshape(1, -1, 1, 2) * window.scale
        labels = torch.full(coords.shape[:3], int(PointLabel.FOREGROUND))
        moved = model.calibrate_points(embeddings, coords, labels)
        distances += ((moved - coords).norm(dim=-1) / window.scale).flatten().tolist()
    return _mean(distances)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _scale(options: argparse.Namespace) -> Scale:
    """Return the scale to evaluate at, and say so if the run was trained at another."""
    config = {} if options.run is None else read_manifest(options.run, "run", verify=False).config
    trained = Scale.of_manifest(config)
    if options.window is None:
        return replace(trained, spread=1.0) if trained is not None else Scale(128, 1.0)
    chosen = Scale(options.window or None, 1.0)
    if trained is not None and (trained.window or 0) != options.window:
        sys.stderr.write(
            f"--window: got {options.window}, expected {trained.window or 0}, at which "
            f"{options.run} was trained; at another scale it may be worse than its base\n"
        )
    return chosen


def _parser() -> ArgumentParser:
    parser = parser_of(PROG, __doc__)
    add_model_options(parser)
    add_source_options(parser, "test")
    parser.add_argument(
        "--window",
        type=count_from_0,
        metavar="PX",
        help="side of the squares, 0 for whole images (default: the run's, 128 for a base)",
    )
    parser.add_argument(
        "--around-entities",
        action="store_true",
        help="one square around every entity instead of a regular grid of squares",
    )
    parser.add_argument(
        "--min-area", type=count, default=30, metavar="PX", help="smallest entity (default: 30)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the scores as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = _parser()

    def work(options: argparse.Namespace) -> None:
        require_model(parser, options)
        scale = _scale(options)
        samples = read_scored(options)
        windows = validation_windows(samples, scale)
        if options.around_entities:
            windows = [
                window
                for sample in samples
                for window in entity_windows(
                    sample, min(scale.side(sample.size), *sample.size), options.min_area
                )
            ]
        scores = evaluate(options.run, options.base, windows, options.min_area)
        text = json.dumps({**part_of(options), **scores}, indent=2) + "\n"
        if options.out is not None:
            write_atomic(options.out, text.encode())
        print(text, end="")

    return run_command(parser, work, argv)


if __name__ == "__main__":
    sys.exit(main())
