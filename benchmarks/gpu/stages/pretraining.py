"""Stage `pretraining`: the compact base from scratch, for the minutes that are left.

As `python -m training.pretrain`, on synthetic scenes and, where it is given, BBBC038v1 with its
lists train.txt and val.txt. The learning rate follows the clock, so that it reaches its end with
the time. The base is published to `OUT/base`, two files of less than 16 MiB together. `dice` is
that of one click on the images of val.txt, or on synthetic scenes that were not trained on.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks.gpu.attempts import GIB
from benchmarks.gpu.stage import StageContext
from cpcsam.model.build_sam import ENCODERS
from training.loop.precision import is_mixed
from training.loop.trainer import Callback
from training.pretraining.config import PretrainBatchConfig, PretrainConfig, PretrainData
from training.pretraining.run import pretrain

__all__ = ["BASE", "Progress", "config_of", "measure"]

BASE: Final = "base"
"""Folder of the published base below the output folder."""
IMAGES: Final = 32
"""Windows of a batch; with 8, as on the CPU, a GPU would wait for its own launches."""
LR: Final = 8e-4
MAX_STEPS: Final = 40_000
"""The time ends a run earlier; warm-up is a share of these steps."""
WARM_UP: Final = 0.04
MAX_WORKERS: Final = 14
SHARED_MEMORY: Final = Path("/dev/shm")
HELD_BATCHES: Final = 3
"""Batches that a worker holds in shared memory: two prefetched, and the next."""
SCORE_S: Final = 30.0
"""Kept for scoring and publishing, after training."""
START_S: Final = 15.0
"""Kept for reading images and drawing scenes, before training."""
MIN_S: Final = 20.0
QUICK_S: Final = 6.0
RECORDS: Final = 20
LISTS: Final = ("train.txt", "val.txt")
QUICK_IMAGES: Final = 2

Record = dict[str, Any]


def config_of(context: StageContext, run: Path, seconds: float) -> PretrainConfig:
    """Configure a run of some seconds.

    Args:
        context: of the stage.
        run: folder of the resumable state.
        seconds: of training.
    """
    batch = PretrainBatchConfig(images=IMAGES)
    if context.quick:
        batch = PretrainBatchConfig(images=2, prompts=2, synthetic_scenes=4)
    return PretrainConfig(
        out=context.out / BASE,
        run=run,
        steps=MAX_STEPS,
        max_minutes=seconds / 60,
        workers=1 if context.quick else _workers(batch),
        lr=LR,
        warmup_steps=round(WARM_UP * MAX_STEPS),
        auxiliary_steps=MAX_STEPS // 2,
        # A checkpoint would serve a run that goes on, and validation costs training time.
        checkpoint_every=MAX_STEPS,
        evaluate_every=MAX_STEPS,
        data=_data(context, run),
        batch=batch,
    )


def _data(context: StageContext, run: Path) -> PretrainData:
    """Take real images only where lists name those to train on and those to score."""
    root = context.bbbc038
    if root is None or not all((root / name).is_file() for name in LISTS):
        return PretrainData(val_scenes=1 if context.quick else 20)
    if not context.quick:
        return PretrainData(bbbc038=root)
    for name in LISTS:
        ids = (root / name).read_text(encoding="utf-8").split()
        (run / name).write_text("\n".join(ids[:QUICK_IMAGES]), encoding="utf-8")
    train_ids, val_ids = (str((run / name).resolve()) for name in LISTS)
    return PretrainData(bbbc038=root, train_ids=train_ids, val_ids=val_ids)


def _workers(batch: PretrainBatchConfig) -> int:
    """Return how many processes the cores and the shared memory allow to prepare batches."""
    pixels = ENCODERS["vit_t"].default_image_size ** 2
    # Image, int32 labels, and a mask a prompt.
    size = batch.images * pixels * (3 + 4 + batch.prompts)
    room = shutil.disk_usage(SHARED_MEMORY).free // (HELD_BATCHES * size)
    return max(0, min(MAX_WORKERS, len(os.sched_getaffinity(0)) - 2, room))


@dataclass
class Progress(Callback):
    """Records loss and speed of a run, about `RECORDS` times.

    Attributes:
        images: windows of a batch.
        clock: seconds.
        records: so far; the losses are means since the record before.
    """

    images: int
    clock: Callable[[], float] = time.monotonic
    records: list[Record] = field(default_factory=list)
    steps: int = 0
    first_step_s: float = 0.0
    _started: float = 0.0
    _first: float | None = None
    _share: float = 0.0
    _losses: list[float] = field(default_factory=list)
    _marks: tuple[int, float] = (0, 0.0)

    def on_train_start(self) -> None:
        """Start the clock."""
        self._started = self.clock()

    def on_step_start(self, progress: float) -> None:
        """Close a record if its share of the budget is used up."""
        if self._losses and progress >= self._share + 1 / RECORDS:
            self._close(progress)

    def on_step_end(self, metrics: Mapping[str, float], *, finished: bool, stopped: bool) -> None:
        """Count a step, and close the last record."""
        self.steps += 1
        self._losses.append(metrics["loss"])
        if self._first is None:
            # It draws the workers' first batches and compiles nothing that later steps repeat.
            self._first = self.clock()
            self.first_step_s = self._first - self._started
            self._marks = (1, self._first)
        if stopped:
            self._close(1.0)

    @property
    def images_per_s(self) -> float:
        """Speed after the first step; 0 if there was no other."""
        if self._first is None or self.steps < 2:
            return 0.0
        return self.images * (self.steps - 1) / max(self._marks[1] - self._first, 1e-9)

    def _close(self, progress: float) -> None:
        now = self.clock()
        steps, since = self._marks
        speed = self.images * (self.steps - steps) / (now - since) if now > since else 0.0
        self.records.append(
            {
                "case": f"step {self.steps}",
                "progress": progress,
                "loss": sum(self._losses) / len(self._losses),
                "images_per_s": speed,
            }
        )
        self._losses.clear()
        self._share, self._marks = progress, (self.steps, now)


def measure(context: StageContext) -> Iterator[Record]:
    """Pretrain for the time that is left, less what scoring takes."""
    left = context.left_s()
    seconds = QUICK_S if context.quick else left - SCORE_S - START_S
    if not context.quick and seconds < MIN_S:
        yield {"case": "base", "skipped": f"{left:.0f} s left, too few to train and to score"}
        return
    with TemporaryDirectory() as folder:
        config = config_of(context, Path(folder), seconds)
        yield {
            "case": "plan",
            "data": "synthetic scenes" if config.data.bbbc038 is None else "BBBC038v1 and scenes",
            "batch": config.batch.images,
            "workers": config.workers,
            "precision": "bfloat16 mixed" if is_mixed("auto", context.device) else "float32",
            "training_s": seconds,
        }
        if context.bbbc038 is not None and config.data.bbbc038 is None:
            yield {"case": str(context.bbbc038), "skipped": "no train.txt and val.txt in it"}
        yield from _pretrain(context, config)


def _pretrain(context: StageContext, config: PretrainConfig) -> Iterator[Record]:
    progress = Progress(config.batch.images)
    scores = pretrain(config, callbacks=(progress,))
    yield from progress.records
    assert scores is not None  # nothing interrupts it
    files = [path for path in config.out.rglob("*") if path.is_file()]
    yield {
        "case": "base",
        "steps": progress.steps,
        "first_step_s": progress.first_step_s,
        "images_per_s": progress.images_per_s,
        "entities": scores.entities,
        "dice": scores.dice,
        "iou_correlation": scores.iou_correlation,
        "files": len(files),
        "weights_gib": sum(path.stat().st_size for path in files) / GIB,
    }
