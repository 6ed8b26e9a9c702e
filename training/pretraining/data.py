"""Configuration and data of pretraining: windows of images and scenes, one prompt per entity."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from cpcsam.checks import require_range
from cpcsam.config import to_dict
from cpcsam.errors import DataError
from training.data.augment import AugmentConfig, window_with_entities
from training.data.datasets.class_split import split_classes
from training.data.datasets.instance_folders import read_bbbc038
from training.data.prompt_sampling import PromptMix, sample_prompt
from training.data.sample import Sample, windows
from training.data.synthetic import synthetic_scene
from training.data.vector_art.drawings import HELD_OUT, Drawing, open_collection
from training.data.vector_art.scenes import SceneConfig, compose
from training.loop.precision import Precision

__all__ = [
    "PretrainBatch",
    "PretrainBatchConfig",
    "PretrainBatches",
    "PretrainConfig",
    "PretrainData",
    "load_drawings",
    "load_images",
]

# Half of vit_t's side: shown at their own size, nuclei are too small to be segmented well.
EVALUATION_WINDOW = 128
# Far from the seeds of the scenes that are trained on.
HELD_OUT_SEED = 1_000_000


@dataclass(frozen=True)
class PretrainData:
    """Sources of real images and of drawings.

    Attributes:
        bbbc038: folder of BBBC038v1, None for synthetic scenes alone.
        vector_art: folder of openclipart-svg, whose drawings are composed to scenes while
            training; None for no such scenes.
        train_ids: file of ids to train on, relative to that folder; None takes all.
        val_ids: file of ids to score at the end.
        val_scenes: synthetic scenes to score instead if there are no real images, and as many
            of drawings that are not trained on.
    """

    bbbc038: Path | None = None
    vector_art: Path | None = None
    train_ids: str | None = "train.txt"
    val_ids: str | None = "val.txt"
    val_scenes: int = 20


@dataclass(frozen=True)
class PretrainBatchConfig:
    """Sampling of a batch.

    Attributes:
        images: windows of a batch.
        prompts: prompts of a window.
        min_area: entities of fewer shown pixels get no prompt.
        synthetic_scenes: size of the pool of synthetic scenes.
        synthetic_share: their share of a batch if there are real images.
        vector_art_share: share of scenes of drawings in a batch, if there are drawings; half of
            them have whole drawings as entities and half the parts of drawings.
        augment: augmentation of windows.
        prompt_mix: simulated annotator of entities.
    """

    images: int = 8
    prompts: int = 6
    min_area: int = 40
    synthetic_scenes: int = 512
    synthetic_share: float = 0.2
    vector_art_share: float = 0.3
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    prompt_mix: PromptMix = field(default_factory=PromptMix)


@dataclass(frozen=True)
class PretrainBatch:
    """B windows with P prompts each.

    Attributes:
        image: (B, 3, S, S) uint8.
        instances: (B, S, S) int32.
        masks: (B, P, S, S) bool, the entity of each prompt.
        point_coords: (B, P, N, 2) float32, pixels of the encoder's frame, (X, Y).
        point_labels: (B, P, N) int32, `PointLabel`.
    """

    image: Tensor
    instances: Tensor
    masks: Tensor
    point_coords: Tensor
    point_labels: Tensor

    def to(self, device: torch.device) -> PretrainBatch:
        """Move the batch to a device."""
        return PretrainBatch(*(column.to(device) for column in vars(self).values()))


@dataclass(frozen=True)
class _Scenes(Dataset[Sample]):
    """The pool of synthetic scenes, which processes draw in parallel."""

    seed: int
    count: int
    image_size: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return synthetic_scene(self.seed + index, self.image_size)

    def draw(self, workers: int) -> list[Sample]:
        """Draw all scenes, in order."""
        drawn: Iterable[Sample] = map(self.__getitem__, range(self.count))
        if workers > 1:
            drawn = DataLoader(self, batch_size=None, num_workers=workers)
        return list(tqdm(drawn, total=self.count, desc="synthetic scenes", leave=False))


class PretrainBatches(Dataset[PretrainBatch]):
    """Deterministic batches: the seed and i alone decide batch i, so that a run can be resumed.

    Real images are drawn in proportion to the square root of their area. Scenes of `drawings` are
    composed when a batch needs them, each from its own seed.
    """

    def __init__(
        self,
        real: Sequence[Sample],
        image_size: int,
        config: PretrainBatchConfig,
        *,
        seed: int,
        steps: int,
        workers: int = 1,
        drawings: Mapping[str, Sequence[Drawing]] | None = None,
    ) -> None:
        self.config = config
        self.drawings = drawings
        self.image_size = image_size
        self.seed = seed
        self.steps = steps
        self.real = [sample for sample in real if sample.instances.any()]
        scenes = _Scenes(seed, config.synthetic_scenes, image_size)
        self.synthetic = scenes.draw(workers)
        sides = np.sqrt([sample.instances.size for sample in self.real])
        self.real_weights = sides / sides.sum()

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> PretrainBatch:
        rng = np.random.default_rng((self.seed, index))
        rows = [self._image(rng) for _ in range(self.config.images)]
        return PretrainBatch(*(torch.stack(column) for column in zip(*rows, strict=True)))

    def _image(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        config = self.config
        while True:
            window, labels = window_with_entities(
                self._sample(rng), self.image_size, config.augment, config.min_area, rng
            )
            if len(labels):
                break
        chosen = rng.choice(labels, config.prompts, replace=len(labels) < config.prompts)
        masks = window.instances.numpy() == chosen[:, None, None]
        prompts = [sample_prompt(mask, config.prompt_mix, rng) for mask in masks]
        coords, point_labels = (np.stack(column) for column in zip(*prompts, strict=True))
        return (
            window.image,
            window.instances,
            torch.from_numpy(masks),
            torch.from_numpy(coords),
            torch.from_numpy(point_labels),
        )

    def _sample(self, rng: np.random.Generator) -> Sample:
        # Without drawings nothing is drawn from rng, so that older runs can be repeated.
        if self.drawings and rng.random() < self.config.vector_art_share:
            scene = SceneConfig(self.image_size, parts=bool(rng.random() < 0.5))
            return compose(self.drawings, int(rng.integers(2**62)), scene).sample
        if not self.real or rng.random() < self.config.synthetic_share:
            return self.synthetic[rng.integers(len(self.synthetic))]
        return self.real[rng.choice(len(self.real), p=self.real_weights)]


def load_images(data: PretrainData) -> tuple[list[Sample], list[Sample]]:
    """Read the images to train on and the square windows to score.

    Raises:
        DataError: the real images or the drawings cannot be read.
    """
    if data.bbbc038 is None:
        sys.stderr.write("no BBBC038 path given: pretraining on synthetic scenes alone\n")
        seeds = range(HELD_OUT_SEED, HELD_OUT_SEED + data.val_scenes)
        held_out = [synthetic_scene(seed) for seed in seeds]
        if data.vector_art is not None:
            drawings = open_collection(data.vector_art).of(None, HELD_OUT)
            held_out += [compose(drawings, seed).sample for seed in seeds if drawings]
        return [], [window for scene in held_out for window in windows(scene, EVALUATION_WINDOW)]
    train_ids, val_ids = (
        None if name is None else data.bbbc038 / name for name in (data.train_ids, data.val_ids)
    )
    train, validation = (read_bbbc038(data.bbbc038, ids) for ids in (train_ids, val_ids))
    return train, [cut for sample in validation for cut in windows(sample, EVALUATION_WINDOW)]


def load_drawings(data: PretrainData) -> dict[str, tuple[Drawing, ...]] | None:
    """Return the drawings to train on by category: the training part of the base classes.

    Raises:
        DataError: there is no such drawing.
    """
    if data.vector_art is None:
        return None
    collection = open_collection(data.vector_art)
    drawings = collection.of("train", split_classes(collection.categories)[0])
    if not drawings:
        raise DataError.of(
            str(data.vector_art),
            got="no drawing of a base class to train on",
            expected="openclipart-svg's categories",
            fix="apt-get install openclipart-svg and give /usr/share/openclipart",
        )
    return drawings


@dataclass(frozen=True)
class PretrainConfig:
    """One pretraining run.

    Attributes:
        out: artifact folder that the base is published to.
        run: folder of the resumable state and of TensorBoard's files.
        init: a base to continue from, None for untrained weights.
        model_size: a key of `ENCODERS`.
        seed: of weights and batches.
        steps: optimiser steps.
        max_minutes: stop earlier, after this time; the schedule then follows the clock. null
            sets no limit.
        workers: processes that prepare batches; 0 prepares them in the training process.
        lr: peak learning rate of AdamW.
        weight_decay: of matrices; vectors have none.
        warmup_steps: steps of linear warm-up before the cosine.
        ema: decay of the moving average of the weights, which is what is published.
        correction_every: steps from one whose loss is that of SAM's second round, prompted by the
            first round's mask and a correcting click, to the next such step.
        auxiliary_steps: steps over which the auxiliary head's weight falls from 1 to 0.
        precision: bfloat16 trains in mixed precision, auto does so if the device has bfloat16
            instructions.
        checkpoint_every: steps between resumable states.
        evaluate_every: steps between scores on a quarter of the validation windows.
        data: real images and drawings, or none.
        batch: sampling of batches.
    """

    out: Path = Path("weights/vit_t")
    run: Path = Path("runs/pretrain")
    init: Path | None = None
    model_size: str = "vit_t"
    seed: int = 0
    steps: int = 8000
    max_minutes: float | None = None
    workers: int = 1
    lr: float = 5e-4
    weight_decay: float = 0.05
    warmup_steps: int = 300
    ema: float = 0.999
    correction_every: int = 6
    auxiliary_steps: int = 4000
    precision: Precision = "auto"
    checkpoint_every: int = 250
    evaluate_every: int = 1000
    data: PretrainData = field(default_factory=PretrainData)
    batch: PretrainBatchConfig = field(default_factory=PretrainBatchConfig)

    def __post_init__(self) -> None:
        """Refuse a time limit that trains nothing, and a negative number of processes."""
        if self.max_minutes is not None:
            require_range("max_minutes", self.max_minutes, 0, above=True)
        require_range("workers", self.workers, 0)

    def recipe(self) -> dict[str, Any]:
        """Return the configuration as plain data, without paths and processes of this machine."""
        recipe: dict[str, Any] = to_dict(self)
        del recipe["out"], recipe["run"], recipe["init"], recipe["data"]["bbbc038"]
        del recipe["workers"]
        del recipe["data"]["vector_art"]
        if self.data.vector_art is None:
            del recipe["batch"]["vector_art_share"]
        return recipe
