"""Why calibration gains what it gains: is there a signal, can CaPL see it, and what does it do?"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn
from tqdm import tqdm

from benchmarks.budget import Budget
from benchmarks.calibration.arms import BOTH, GROUPS, SHOTS
from benchmarks.calibration.runs import Asked, ask, read_split, scores_of, train
from benchmarks.calibration.step_time import steps_of
from benchmarks.data.confounded_scenes import scene
from cpcsam.artifacts.manifest import write_atomic
from cpcsam.commands import ArgumentParser, count, exit_code_of, positive
from cpcsam.contract import EMBED_DIM, PATCH_SIZE, PointLabel
from cpcsam.model.base_checkpoint import load_base
from cpcsam.model.decoder import DecoderTrace
from cpcsam.model.point_calibration import sample_embeddings
from cpcsam.model.sam import CpcSam
from training.bilevel.losses import IOU_TOKENS, area_average
from training.data.prompt_sampling import accurate_points
from training.data.sample import Sample

__all__ = ["main"]

PROG = "python -m benchmarks.diagnosis"
EXAMPLES = """examples:
  python -m benchmarks.diagnosis                  trains two arms of benchmarks.calibration anew
  python -m benchmarks.diagnosis --minutes 0.2    a quick look
  python -m benchmarks.diagnosis --bbbc038 /data/bbbc038v1 --steps 261 --out out/diagnosis-tissue
  python -m benchmarks.diagnosis --bbbc038 /data/bbbc038v1 --steps 261 --on base --out out/diagnosis

Answers go to diagnosis.json and diagnosis.md in --out. Minutes are CPU minutes of one core.
"""
ARMS = (GROUPS, BOTH)
TEMPO = Path("benchmarks/results/calibration/tempo.json")
HIDDEN, PROBES, PROBE_STEPS = 128, 3, 300
PROBE_SEED, PROBE_SCENES = 700_000, 64
SEEN = {
    "prompt alone (literal)": EMBED_DIM,
    "prompt and e(x)": 2 * EMBED_DIM,
    "prompt, e(x) and its neighbours": 6 * EMBED_DIM,
}
"""What a probe is shown, by the features that it takes of `clicks_of`."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """What a model makes of the careless prompts of some samples; one row a prompt.

    Attributes:
        dice: (n,) of mask 0.
        clicked: (n,) bool, the prompt begins with a click, not with a box.
        missed: (n,) bool, and that is not on the entity.
        inside: (n,) share of mask 0's token→image attention that is on the entity, averaged over
            heads and layers.
        covered: (n,) share of the image that the entity covers, what even attention would give.
        off: (n,) pixels from the first point to where an accurate annotator puts it.
        off_moved: (n,) the same of where CaPL moves it.
        change: (n,) ‖P̃ − P‖ / ‖P‖ of the first point, P taken where it was moved to; 0 without a
            task module.
        bias: (n,) mean |C| of the token→image attentions; 0 without an entity module.
    """

    dice: Array
    clicked: NDArray[np.bool_]
    missed: NDArray[np.bool_]
    inside: Array
    covered: Array
    off: Array
    off_moved: Array
    change: Array
    bias: Array


@torch.no_grad()
def answers_of(model: CpcSam, samples: Sequence[Sample], strength: float) -> Answers:
    """Prompt a model carelessly and look into it.

    Args:
        model: in evaluation mode.
        samples: square samples.
        strength: of the annotators' carelessness.
    """
    rows = [_look(model, ask(sample, model.image_size, strength)) for sample in samples]
    return Answers(*(np.concatenate(column) for column in zip(*rows, strict=True)))


def _look(model: CpcSam, asked: Asked) -> tuple[NDArray[Any], ...]:
    size = torch.full((1, 2), model.image_size, dtype=torch.int32)
    embeddings = model.encode_image(asked.image, size)
    places = model.calibrate_points(embeddings, asked.point_coords, asked.point_labels)
    sparse, token_mask = model.encode_points(embeddings, places, asked.point_labels)
    trace = DecoderTrace()
    masks, _ = model.decode_masks(embeddings, sparse, token_mask, None, trace)
    dice = np.array(scores_of(masks, asked, model.image_size))
    maps = torch.stack([layer[0, :, :, IOU_TOKENS].mean(1) for layer in trace.attention_maps])
    cells = area_average(torch.from_numpy(asked.shown), round(maps.shape[-1] ** 0.5)).flatten(1)
    first = asked.point_labels[0, :, 0].tolist()
    wanted = torch.from_numpy(
        np.stack([accurate_points(m)[kind] for m, kind in zip(asked.shown, first, strict=True)])
    )
    off = [(coords[0, :, 0] - wanted).norm(dim=-1) for coords in (asked.point_coords, places)]
    plain = model.embed_points(places, asked.point_labels)[0, :, 0]
    change = (sparse[0, :, 0] - plain).norm(dim=-1) / plain.norm(dim=-1)
    biases = [bias[0].abs().mean((1, 2, 3)) for bias in trace.token_to_image_biases]
    return (
        dice,
        *_first_clicks(asked),
        (maps.mean(0) * cells).sum(-1).numpy(),
        cells.mean(-1).numpy(),
        *(distance.numpy() for distance in off),
        change.numpy(),
        (torch.stack(biases).mean(0) if biases else torch.zeros(len(dice))).numpy(),
    )


def separability(scores: Array, positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: how often a positive scores higher than a negative."""
    ranks = stats.rankdata(scores)[positive]
    count = len(ranks)
    return float((ranks.sum() - count * (count + 1) / 2) / (count * (~positive).sum()))


def probe(features: Array, wrong: NDArray[np.bool_], unseen: Array) -> Array:
    """Score unseen prompts by a network like the task module's, trained to tell wrong ones.

    Args:
        features: (n, d) of the prompts that it learns from.
        wrong: (n,).
        unseen: (m, d).

    Returns:
        (m,), mean of `PROBES` networks.
    """
    mean, spread = features.mean(0), features.std(0) + 1e-6
    inputs, tested = (
        torch.from_numpy((part - mean) / spread).float() for part in (features, unseen)
    )
    labels = torch.from_numpy(wrong).float()
    scores = torch.zeros(len(unseen))
    for seed in range(PROBES):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(inputs.shape[1], HIDDEN), nn.GELU(), nn.Dropout(0.5), nn.Linear(HIDDEN, 1)
        )
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1.0)
        for _ in range(PROBE_STEPS):
            loss = nn.functional.binary_cross_entropy_with_logits(network(inputs)[:, 0], labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scores += network.eval()(tested)[:, 0].detach() / PROBES
    return scores.double().numpy()


@torch.no_grad()
def clicks_of(model: CpcSam, samples: Sequence[Sample]) -> tuple[Array, NDArray[np.bool_]]:
    """What the task module could see of careless first clicks.

    Returns:
        (n, 1536): P, e(x), and e(x) a cell to the left, right, top and bottom; and (n,) bool,
        whether the click missed.
    """
    step = PATCH_SIZE * torch.tensor([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])
    size = torch.full((1, 2), model.image_size, dtype=torch.int32)
    features, missed = [], []
    for sample in samples:
        asked = ask(sample, model.image_size, 1.0)
        clicks, misses = _first_clicks(asked)
        points = asked.point_coords[0, clicks, 0]
        around = sample_embeddings(
            model.encode_image(asked.image, size), (points[:, None] + step)[None]
        )[0]
        tokens = model.embed_points(asked.point_coords, asked.point_labels)[0, clicks, 0]
        features.append(torch.cat([tokens, around.flatten(1)], 1).double().numpy())
        missed.append(misses[clicks])
    return np.concatenate(features), np.concatenate(missed)


def _first_clicks(asked: Asked) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which prompts begin with a click, and which of those clicks miss the entity; (P,) each."""
    side = asked.shown.shape[-1]
    clicks = asked.point_labels[0, :, 0].numpy() == PointLabel.FOREGROUND
    x, y = asked.point_coords[0, :, 0].numpy().round().astype(int).clip(0, side - 1).T
    return clicks, clicks & ~asked.shown[np.arange(len(x)), y, x]


def _visible(model: CpcSam, target: Sequence[Sample]) -> dict[str, float]:
    """How well a probe that learnt on base classes tells a miss on base and on target classes."""
    learnt = [scene(PROBE_SEED + index, target=False) for index in range(PROBE_SCENES)]
    features, missed = clicks_of(model, learnt[PROBE_SCENES // 4 :])
    unseen = {"base": learnt[: PROBE_SCENES // 4], "target": target}
    tested = {name: clicks_of(model, samples) for name, samples in unseen.items()}
    return {
        f"{what}, {name} classes": separability(
            probe(features[:, :width], missed, found[:, :width]), wrong
        )
        for what, width in SEEN.items()
        for name, (found, wrong) in tested.items()
    }


def _figures(careless: Answers, accurate: Answers) -> dict[str, float]:
    hit = careless.clicked & ~careless.missed
    kinds = {"missed_click": careless.missed, "click_on_entity": hit, "box": ~careless.clicked}
    distances = {"off": careless.off, "off_moved": careless.off_moved}
    return {
        "dice": float(careless.dice.mean()),
        "dice_missed_click": float(careless.dice[careless.missed].mean()),
        "dice_click_on_entity": float(careless.dice[hit].mean()),
        "dice_box": float(careless.dice[~careless.clicked].mean()),
        "dice_accurate_prompts": float(accurate.dice.mean()),
        "attention_inside": float(careless.inside.mean()),
        "attention_inside_missed_click": float(careless.inside[careless.missed].mean()),
        "entity_share_of_image": float(careless.covered.mean()),
        **{
            f"{name}_{kind}": float(distance[chosen].mean())
            for kind, chosen in kinds.items()
            for name, distance in distances.items()
        },
        "change_missed_click": float(careless.change[careless.missed].mean()),
        "change_click_on_entity": float(careless.change[hit].mean()),
        "change_separates": separability(
            careless.change[careless.clicked], careless.missed[careless.clicked]
        ),
        "bias": float(careless.bias.mean()),
    }


def diagnose(options: argparse.Namespace) -> dict[str, Any]:
    """Train the arms and answer the questions.

    Returns:
        Plain data: `models`, figures of each, and on the confounded scenes `visible`, how well a
        probe tells a missed click from others (area under the ROC curve, 0.5 is chance).
    """
    split = read_split(options.seed, SHOTS["standard"], options.bbbc038)
    samples = split.target if options.on == "target" else split.base
    models = {"base": load_base(options.base)}
    budgets = _budgets(options)
    for arm in tqdm(ARMS, desc="train", unit="arm"):
        state, _ = train(arm, split, options.base, options.seed, budgets[arm.name])
        models[arm.name] = state.model
    visible = {}
    if options.bbbc038 is None:
        visible = {name: _visible(model, split.target) for name, model in models.items()}
    figures = {}
    for name, model in tqdm(models.items(), desc="look", unit="model"):
        figures[name] = _figures(*(answers_of(model, samples, one) for one in (1.0, 0.0)))
    models["both"].capl = None
    figures["both, CaPL off"] = _figures(
        *(answers_of(models["both"], samples, one) for one in (1.0, 0.0))
    )
    return {
        "seed": options.seed,
        "budget": {name: asdict(budget) for name, budget in budgets.items()},
        "models": figures,
        "visible": visible,
    }


def _budgets(options: argparse.Namespace) -> dict[str, Budget]:
    if options.steps is None:
        return {arm.name: Budget(options.minutes) for arm in ARMS}
    scenes = read_split(0, SHOTS["standard"])
    steps = steps_of(ARMS, options.steps, GROUPS, scenes, options.base, TEMPO)
    return {name: Budget(steps=number) for name, number in steps.items()}


def _markdown(report: dict[str, Any]) -> str:
    models = report["models"]
    names = list(next(iter(models.values())))
    lines = ["| | " + " | ".join(models) + " |", "|---|" + "---|" * len(models)]
    lines += [
        f"| {name} | " + " | ".join(f"{models[model][name]:.3f}" for model in models) + " |"
        for name in names
    ]
    visible = report["visible"]
    if visible:
        lines += ["", "| a probe tells a missed click from | " + " | ".join(visible) + " |"]
        lines += ["|---|" + "---|" * len(visible)]
        for inputs in next(iter(visible.values())):
            values = " | ".join(f"{found[inputs]:.3f}" for found in visible.values())
            lines.append(f"| {inputs} | {values} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = ArgumentParser(prog=PROG, description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--base", type=Path, default=Path("weights/vit_t"), metavar="DIR")
    parser.add_argument("--minutes", type=positive, default=2.0, metavar="M", help="(default: 2)")
    parser.add_argument(
        "--steps", type=count, metavar="N", help="instead of minutes: as in benchmarks.calibration"
    )
    parser.add_argument(
        "--bbbc038", type=Path, metavar="DIR", help="fluorescence and tissue instead of scenes"
    )
    parser.add_argument(
        "--on",
        choices=("target", "base"),
        default="target",
        help="classes to look at; fluorescence is base, tissue target (default: target)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/diagnosis"), metavar="DIR"
    )
    options: argparse.Namespace = parser.parse_args(arguments)

    def command() -> None:
        torch.set_num_threads(1)
        report = diagnose(options)
        markdown = _markdown(report)
        options.out.mkdir(parents=True, exist_ok=True)
        write_atomic(options.out / "diagnosis.json", (json.dumps(report, indent=2) + "\n").encode())
        write_atomic(options.out / "diagnosis.md", markdown.encode())
        print(markdown)

    return exit_code_of(command, PROG)


if __name__ == "__main__":
    sys.exit(main())
