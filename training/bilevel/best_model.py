"""The best model of a run by validation, which is the base until training beats it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from cpcsam.errors import ConfigError
from cpcsam.images.options import INTENSITY
from cpcsam.model.run_checkpoint import save_run
from cpcsam.scale import SCALE
from training.bilevel.config import TrainConfig
from training.bilevel.train_state import BilevelState
from training.data.sample import Sample
from training.evaluation.one_click import (
    CLICKS,
    OneClickScores,
    one_click,
    scores_by_click,
    without_masks,
)
from training.loop.callbacks import TensorBoard
from training.loop.distributed import all_gather, is_main, rank_slice, training_device
from training.loop.learning_curve import ValidationScores, best_of, draw_learning_curve
from training.loop.train_state import CURVE
from training.loop.trainer import Callback

__all__ = ["BestModel", "with_other_images"]


@dataclass
class BestModel(Callback):
    """Validates the model, and publishes it to `best` whenever it is the best so far.

    The first to be published is the untrained model, which computes what the base does. Nothing
    that segments other images as well as the annotated ones is published after it: such a model
    has learned where masks lie around clicks, and nothing of what images show.

    Attributes:
        config: the run.
        state: what is trained.
        validation: square samples, which the processes share.
        record: identifies the run, for the manifest.
        board: gets the scores.
    """

    config: TrainConfig
    state: BilevelState
    validation: list[Sample]
    record: dict[str, Any]
    board: TensorBoard

    @property
    def age(self) -> int:
        """Validations since the best one."""
        validations = self.state.validations
        return len(validations) - 1 - validations.index(best_of(validations))

    def on_train_start(self) -> None:
        """Say how the model is trained, and validate it untrained."""
        if is_main():
            mixed = self.state.forward.bf16
            precision = "bfloat16 mixed precision" if mixed else "full precision"
            tqdm.write(f"training on {training_device()} in {precision}", file=sys.stderr)
        if not self.state.validations:
            self.update()

    def update(self) -> None:
        """Validate, and publish the model if it is the best so far."""
        validations, scores = self.state.validations, self._validate(self.validation)
        now = _scores(self.state.step, scores)
        for kind, of_kind in scores.items():
            dice, iou = f"validation_{kind}/dice", f"validation_{kind}/iou"
            self.board.log({dice: of_kind.dice, iou: of_kind.iou})
        verdict = ""
        if validations and now.dice > best_of(validations).dice:
            other = _scores(now.step, self._validate(with_other_images(self.validation))).dice
            now = now._replace(other_images=other)
            verdict = f", not kept: {other:.4f} with other images under the same masks"
        validations.append(now)
        if not is_main():
            return
        if best_of(validations) is now:
            verdict = ", best"
            self._publish(scores)
        tqdm.write(
            f"step {now.step}: validation Dice {now.dice:.4f} by accurate and careless clicks "
            f"({now.accurate:.4f}, {now.careless:.4f}; base {validations[0].dice:.4f}){verdict}",
            file=sys.stderr,
        )
        draw_learning_curve(validations, self.config.folder / CURVE)

    def _validate(self, windows: Sequence[Sample]) -> dict[str, OneClickScores]:
        """Score windows by kind of click, each process its slice of them."""
        min_area = self.config.data.min_area
        windows = windows[rank_slice(len(windows))]
        scored = one_click(
            self.state.model, windows, min_area=min_area, annotators=tuple(CLICKS.values())
        )
        results = all_gather(without_masks(scored))
        if not results:
            raise ConfigError.of(
                "data.validation",
                got=f"no entity of {min_area} pixels",
                expected="annotated entities",
                fix="give other images or lower data.min_area",
            )
        return scores_by_click(results)

    def _publish(self, scores: dict[str, OneClickScores]) -> None:
        config, state = self.config, self.state
        save_run(
            state.model,
            config.folder / "best",
            base=config.model.base,
            lora=config.model.lora,
            config={
                "train": self.record,
                SCALE: config.scale.record(),
                INTENSITY: config.intensity.record(),
            },
            metrics={
                "step": state.step,
                "elapsed_s": round(state.elapsed_s, 1),
                "validation": {kind: asdict(of_kind) for kind, of_kind in scores.items()},
                "validation_dice": state.validations[-1].dice,
                "validation_dice_base": state.validations[0].dice,
            },
        )


def with_other_images(windows: Sequence[Sample]) -> list[Sample]:
    """Give every window the image of the next one, rolled; masks and clicks stay.

    Rolled, since images may be alike: a single window is its own next one, and all images of a
    series may show a specimen in the same place. Not by half both ways, where arrays may repeat.
    """
    others = [*windows[1:], windows[0]]
    return [
        replace(
            window,
            image=np.asarray(
                Image.fromarray(_rolled(other.image)).resize(window.size[::-1]), np.uint8
            ),
        )
        for window, other in zip(windows, others, strict=True)
    ]


def _rolled(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width, _ = image.shape
    return np.roll(image, (height // 2, width * 3 // 8), (0, 1))


def _scores(step: int, scores: Mapping[str, OneClickScores]) -> ValidationScores:
    return ValidationScores(step, scores["accurate"].dice, scores["careless"].dice)
