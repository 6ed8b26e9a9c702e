"""Pretraining runs: start or resume, score the averaged weights, publish the base."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from cpcsam.artifacts.manifest import read_manifest
from cpcsam.model.base_checkpoint import base_digest, save_base
from cpcsam.model.sam import CpcSam
from training.data.prefetch import prefetch
from training.data.sample import Sample, digest_samples, fingerprint
from training.data.vector_art.drawings import open_collection
from training.evaluation.one_click import OneClickScores, one_click, without_masks
from training.loop.callbacks import Checkpoints, TensorBoard, Validation
from training.loop.distributed import training_device
from training.loop.train_state import remove_leftovers
from training.loop.trainer import Budget, Callback, Trainer
from training.pretraining.config import PretrainConfig
from training.pretraining.data import PretrainBatch, PretrainBatches, load_drawings, load_images
from training.pretraining.train_state import PretrainState, new_pretrain_state

__all__ = ["pretrain"]

LOG_EVERY = 20
COSTS = ("steps", "cpu_seconds", "seconds")
"""Metrics of a base that add up over the bases it was trained from."""


def pretrain(
    config: PretrainConfig,
    interrupted: Callable[[], bool] = lambda: False,
    *,
    callbacks: Sequence[Callback] = (),
) -> OneClickScores | None:
    """Train, resuming `config.run` from its last checkpoint, and publish `config.out`.

    Args:
        config: the run.
        interrupted: polled after every step; once true, the state is saved and training ends.
        callbacks: called after the run's own.

    Returns:
        Scores of the published base; None after an interruption.

    Raises:
        ArtifactError: `init` or the saved state cannot be used.
        ConfigError: the run was begun with another configuration or other data.
        DataError: the real images or drawings cannot be read.
        TrainingError: the loss is no longer finite.
    """
    train, validation = load_images(config.data)
    device = training_device()
    state = new_pretrain_state(config, device)
    last, record = config.run / "last.pt", _record(config, train)
    if last.exists():
        state.restore(last, record)
        sys.stderr.write(f"resuming {config.run} at step {state.step}\n")
    remove_leftovers(config.run)
    batches = PretrainBatches(
        train,
        state.model.image_size,
        config.batch,
        seed=config.seed,
        steps=config.steps,
        workers=config.workers,
        drawings=load_drawings(config.data),
    )
    counts_cpu_time = device.type == "cpu" and config.max_minutes is None
    with SummaryWriter(config.run / "tensorboard", purge_step=state.step) as writer:
        board = TensorBoard(writer, state, every=LOG_EVERY)

        def validate() -> None:
            dice = _score(state.averaged(), validation[::4]).dice
            board.log({"one_click_dice": dice})
            tqdm.write(f"step {state.step}: one-click Dice {dice:.4f}", file=sys.stderr)

        trainer: Trainer[PretrainBatch] = Trainer(
            state,
            lambda batch, progress: state.train_step(batch, config, progress),
            Budget(minutes=config.max_minutes, steps=config.steps),
            (
                board,
                Validation(validate, state, config.evaluate_every, at_end=False),
                Checkpoints(last, state, record, config.checkpoint_every),
                *callbacks,
            ),
            description="pretrain",
            clock=_user_cpu_seconds if counts_cpu_time else time.monotonic,
        )
        drawn = prefetch(batches, state.step, config.workers, device)
        if not trainer.fit(drawn, interrupted):
            return None
    # Artifacts hold float16, so the rounded weights are what must be scored.
    model = state.averaged().half().float()
    scores = _score(model, validation)
    unit = "cpu_seconds" if counts_cpu_time else "seconds"
    _publish(config, record, state, model, train, scores, unit)
    return scores


def _record(config: PretrainConfig, train: Sequence[Sample]) -> dict[str, Any]:
    """Return what identifies a run: its recipe, and digests of its data and of its beginning."""
    recipe, folder = config.recipe(), config.data.vector_art
    del recipe["max_minutes"]  # a resumed run may have more time
    return {
        **recipe,
        "train_digest": digest_samples(train),
        "vector_art_digest": None if folder is None else open_collection(folder).digest,
        "init_digest": None if config.init is None else base_digest(config.init),
    }


def _user_cpu_seconds() -> float:
    # CPU time: on a shared machine, wall time would also count other programs.
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def _score(model: CpcSam, samples: list[Sample]) -> OneClickScores:
    return OneClickScores.of(without_masks(one_click(model, samples)))


def _publish(
    config: PretrainConfig,
    record: Mapping[str, Any],
    state: PretrainState,
    model: CpcSam,
    train: list[Sample],
    scores: OneClickScores,
    unit: str,
) -> None:
    """Publish the base; its recipes, fingerprints and cost include those of the base before it.

    `record` is of `_record`; `unit` names the metric of the time that training took.
    """
    recipe = [config.recipe()]
    prints = {sample.name: fingerprint(sample.image) for sample in train}
    cost, parents = {"steps": state.step, unit: round(state.elapsed_s, 1)}, {}
    if config.init is not None:
        before = read_manifest(config.init, "checkpoint", verify=False)
        recipe = [*before.config["recipe"], *recipe]
        prints = before.config["train_fingerprints"] | prints
        for name in COSTS:
            if name in before.metrics:
                cost[name] = cost.get(name, 0) + before.metrics[name]
        parents = {"init": record["init_digest"]}
    digest = record["vector_art_digest"]
    drawn = {} if digest is None else {"vector_art": digest}
    save_base(
        model,
        config.out,
        config={
            "recipe": recipe,
            "real_images": "BBBC038v1" if train else "none: synthetic scenes alone",
            "train_digest": record["train_digest"],
            "train_fingerprints": prints,
            **drawn,
        },
        metrics={"one_click": asdict(scores), **cost},
        parents=parents,
    )
