"""Data of pretraining: windows of images and scenes, one prompt per entity."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from cpcsam.errors import DataError
from training.data.augment import window_with_entities
from training.data.datasets.class_split import split_classes
from training.data.datasets.instance_folders import read_bbbc038
from training.data.prompt_sampling import sample_prompt
from training.data.sample import Sample, windows
from training.data.synthetic import synthetic_scene
from training.data.vector_art.drawings import HELD_OUT, Drawing, open_collection
from training.data.vector_art.scenes import SceneConfig, compose
from training.pretraining.config import PretrainBatchConfig, PretrainData

__all__ = [
    "PretrainBatch",
    "PretrainBatches",
    "load_drawings",
    "load_images",
]

# Half of vit_t's side: shown at their own size, nuclei are too small to be segmented well.
EVALUATION_WINDOW = 128
# Steps over which a pool of composed scenes is drawn from, before the next pool.
POOL_STEPS = 50
# Far from the seeds of the scenes that are trained on.
HELD_OUT_SEED = 1_000_000


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
    composed when a batch needs them, from a pool that is another every `POOL_STEPS` steps.
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
        drawn = config.images * POOL_STEPS * config.vector_art_share
        self.pool = max(1, round(drawn / config.vector_art_reuse))
        self._scene = functools.lru_cache(maxsize=self.pool)(self._compose)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> PretrainBatch:
        rng = np.random.default_rng((self.seed, index))
        rows = [self._image(rng, index // POOL_STEPS) for _ in range(self.config.images)]
        return PretrainBatch(*(torch.stack(column) for column in zip(*rows, strict=True)))

    def _image(self, rng: np.random.Generator, pool: int) -> tuple[Tensor, ...]:
        config = self.config
        while True:
            window, labels = window_with_entities(
                self._sample(rng, pool),
                self.image_size,
                config.scale,
                config.augment,
                config.min_area,
                rng,
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

    def _sample(self, rng: np.random.Generator, pool: int) -> Sample:
        # Without drawings nothing is drawn from rng, so that older runs can be repeated.
        if self.drawings and rng.random() < self.config.vector_art_share:
            return self._scene(pool, int(rng.integers(self.pool)))
        if not self.real or rng.random() < self.config.synthetic_share:
            return self.synthetic[rng.integers(len(self.synthetic))]
        return self.real[rng.choice(len(self.real), p=self.real_weights)]

    def _compose(self, pool: int, index: int) -> Sample:
        scene = SceneConfig(self.image_size, parts=index % 2 == 1)
        return compose(self.drawings or {}, (self.seed, pool, index), scene).sample


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
