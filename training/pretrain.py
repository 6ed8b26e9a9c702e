"""Pretrain the compact base: all of vit_t's weights, class-agnostic, random prompts, no CaPL."""

from __future__ import annotations

import argparse
import copy
import math
import resource
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from cpcsam.artifacts.manifest import read_manifest
from cpcsam.config import load_config, to_dict
from cpcsam.errors import CpcSamError, TrainingError
from cpcsam.model.base_checkpoint import base_digest, load_base, save_base
from cpcsam.model.build_sam import build_sam
from cpcsam.model.sam import CpcSam
from training.data.fingerprint import fingerprint
from training.data.prefetch import stream
from training.data.sample import Sample, digest_samples
from training.evaluation.one_click import OneClickScores, one_click
from training.pretraining.data import (
    PretrainBatch,
    PretrainBatchConfig,
    PretrainBatches,
    PretrainData,
    load_images,
)
from training.pretraining.loss import AuxiliaryHead, batch_loss

__all__ = ["PretrainConfig", "main", "pretrain"]


@dataclass(frozen=True)
class PretrainConfig:
    """One pretraining run.

    Attributes:
        out: where the base is published.
        run: folder of the resumable state and of TensorBoard's files.
        init: a base to go on from, None for untrained weights.
        model_size: a key of `ENCODERS`.
        seed: of weights and batches.
        steps: optimiser steps.
        lr: peak learning rate of AdamW.
        weight_decay: of matrices; vectors have none.
        warmup_steps: steps of linear warm-up before the cosine.
        ema: decay of the moving average of the weights, which is what is published.
        correction_every: each so many steps the loss is that of SAM's second round, prompted by
            the first round's mask and a correcting click.
        auxiliary_steps: steps over which the auxiliary head's weight falls from 1 to 0.
        bf16: compute in bfloat16 where torch's autocast does.
        checkpoint_every: steps between resumable states.
        evaluate_every: steps between scores on a quarter of the validation windows.
        data: where real images come from.
        batch: how batches are drawn.
    """

    out: Path = Path("weights/vit_t")
    run: Path = Path("runs/pretrain")
    init: Path | None = None
    model_size: str = "vit_t"
    seed: int = 0
    steps: int = 8000
    lr: float = 5e-4
    weight_decay: float = 0.05
    warmup_steps: int = 300
    ema: float = 0.999
    correction_every: int = 6
    auxiliary_steps: int = 4000
    bf16: bool = True
    checkpoint_every: int = 250
    evaluate_every: int = 1000
    data: PretrainData = field(default_factory=PretrainData)
    batch: PretrainBatchConfig = field(default_factory=PretrainBatchConfig)


def learning_rate(config: PretrainConfig, step: int) -> float:
    """Linear warm-up, then half a cosine to zero."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass
class State:
    """Everything a resumed run needs."""

    model: CpcSam
    head: AuxiliaryHead
    average: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    step: int = 0
    cpu_seconds: float = 0.0

    def save(self, path: Path) -> None:
        """Write the state atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        torch.save(
            {
                "model": self.model.state_dict(),
                "head": self.head.state_dict(),
                "average": self.average,
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "cpu_seconds": self.cpu_seconds,
            },
            partial,
        )
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Take up a state that `save` wrote."""
        saved = torch.load(path, weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.head.load_state_dict(saved["head"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.average, self.step = saved["average"], saved["step"]
        self.cpu_seconds = saved["cpu_seconds"]

    def averaged(self) -> CpcSam:
        """A model with the moving average of the weights, in evaluation mode."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.average)
        return model.eval()


def new_state(config: PretrainConfig) -> State:
    """Seeded untrained model, or the base to go on from."""
    torch.manual_seed(config.seed)
    if config.init is None:
        model = CpcSam(build_sam(config.model_size))
        for name, parameter in model.named_parameters():
            if name.endswith("pos_embed"):
                nn.init.trunc_normal_(parameter, std=0.02)
    else:
        model = load_base(config.init, config.model_size)
    head = AuxiliaryHead()
    parameters = [*model.named_parameters(), *head.named_parameters()]
    groups = [
        {"params": [p for _, p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for _, p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    average = {name: value.clone() for name, value in model.state_dict().items()}
    return State(model, head, average, torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98)))


def train_step(config: PretrainConfig, state: State, batch: PretrainBatch) -> dict[str, float]:
    """One optimiser step; updates the moving average."""
    step = state.step
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(config, step)
    auxiliary = max(0.0, 1 - step / config.auxiliary_steps) if config.auxiliary_steps else 0.0
    correct = step >= config.warmup_steps and step % config.correction_every == 0
    state.model.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
        loss, figures = batch_loss(
            state.model, state.head, batch, correct=correct, auxiliary=auxiliary
        )
    if not math.isfinite(figures["loss"]):
        raise TrainingError.of(
            f"step {step}", got="a non-finite loss", expected="a number", fix="lower lr and resume"
        )
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    state.optimizer.step()
    decay = min(config.ema, (1 + step) / (10 + step))
    with torch.no_grad():
        for name, value in state.model.state_dict().items():
            state.average[name].lerp_(value, 1 - decay)
    state.step += 1
    return figures


def pretrain(config: PretrainConfig) -> OneClickScores:
    """Train, resuming `config.run` where it stopped, and publish `config.out`.

    Raises:
        DataError: the real images cannot be read.
        TrainingError: the loss is no longer finite.
    """
    train, validation = load_images(config.data)
    state = new_state(config)
    last = config.run / "last.pt"
    if last.exists():
        state.load(last)
        print(f"resuming {config.run} at step {state.step}", file=sys.stderr)
    batches = PretrainBatches(
        train, state.model.image_size, config.batch, seed=config.seed, steps=config.steps
    )
    writer = SummaryWriter(config.run / "tensorboard", purge_step=state.step)
    progress = tqdm(
        stream(batches, state.step, workers=1, device=torch.device("cpu")),
        total=config.steps,
        initial=state.step,
        desc="pretrain",
    )
    start, before = resource.getrusage(resource.RUSAGE_SELF).ru_utime, state.cpu_seconds
    for batch in progress:
        figures = train_step(config, state, batch)
        state.cpu_seconds = before + resource.getrusage(resource.RUSAGE_SELF).ru_utime - start
        progress.set_postfix({name: f"{value:.3f}" for name, value in figures.items()})
        if state.step % 20 == 0:
            for name, value in figures.items():
                writer.add_scalar(name, value, state.step)
        if state.step % config.checkpoint_every == 0 or state.step == config.steps:
            state.save(last)
        if state.step % config.evaluate_every == 0 and state.step < config.steps:
            scores = _evaluate(state.averaged(), validation[::4])
            writer.add_scalar("one_click_dice", scores.dice, state.step)
            tqdm.write(f"step {state.step}: one-click Dice {scores.dice:.4f}", file=sys.stderr)
    model = state.averaged().half().float()
    scores = _evaluate(model, validation)
    _publish(config, state, model, train, scores)
    return scores


def _publish(
    config: PretrainConfig, state: State, model: CpcSam, train: list[Sample], scores: OneClickScores
) -> None:
    """Publish the base; its recipes, fingerprints and cost include those of the base before it."""
    recipe = [_recipe(config)]
    prints = {sample.name: fingerprint(sample.image) for sample in train}
    steps, cpu_seconds, parents = state.step, round(state.cpu_seconds), {}
    if config.init is not None:
        before = read_manifest(config.init, "checkpoint", verify=False)
        recipe = [*before.config["recipe"], *recipe]
        prints = before.config["train_fingerprints"] | prints
        steps += before.metrics["steps"]
        cpu_seconds += before.metrics["cpu_seconds"]
        parents = {"init": base_digest(config.init)}
    save_base(
        model,
        config.out,
        config={
            "recipe": recipe,
            "real_images": "BBBC038v1" if train else "none: synthetic scenes alone",
            "train_digest": digest_samples(train),
            "train_fingerprints": prints,
        },
        metrics={"one_click": asdict(scores), "cpu_seconds": cpu_seconds, "steps": steps},
        parents=parents,
    )


def _recipe(config: PretrainConfig) -> dict[str, Any]:
    """The configuration without the paths of this machine."""
    recipe: dict[str, Any] = to_dict(config)
    del recipe["out"], recipe["run"], recipe["init"], recipe["data"]["bbbc038"]
    return recipe


def _evaluate(model: CpcSam, samples: list[Sample]) -> OneClickScores:
    return OneClickScores.of(list(one_click(model, samples)))


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python -m training.pretrain training/configs/pretrain.yaml "
        "data.bbbc038=/data/bbbc038v1",
    )
    parser.add_argument("config", type=Path, help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the file")
    arguments = parser.parse_args()
    try:
        config = load_config(PretrainConfig, arguments.config, arguments.overrides)
        started = time.monotonic()
        scores = pretrain(config)
    except CpcSamError as error:
        print(error, file=sys.stderr)
        return 2
    minutes = (time.monotonic() - started) / 60
    print(
        f"{config.out}: one-click Dice {scores.dice:.4f} on {scores.entities} entities, "
        f"IoU head r = {scores.iou_correlation:.3f}, {minutes:.1f} minutes"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
