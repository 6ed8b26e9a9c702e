"""Entities, simulated annotators and systems of `benchmarks.noc`."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.calibration.arms import NOISY_STYLES
from benchmarks.comparison.methods.clicks import (
    Annotator,
    Click,
    click_through,
    error_clicked,
    next_click,
)
from cpcsam.errors import DataError
from cpcsam.model.predictor import CpcSamPredictor
from cpcsam.model.sam import CpcSam
from cpcsam.model.torch_backend import TorchBackend
from training.data.prompt_sampling import sample_prompt
from training.data.sample import Sample, entity_labels, entity_windows

__all__ = [
    "ANNOTATORS",
    "MAX_CLICKS",
    "TARGETS",
    "SamClicks",
    "System",
    "View",
    "careless",
    "clicks_to",
    "evaluate",
    "views_of",
]

MAX_CLICKS: Final = 20
"""An annotator gives up after these."""
TARGETS: Final = (0.85, 0.90)
"""IoU that count as good masks; at the last one an annotator stops."""
MIN_AREA: Final = 30
"""Entities of fewer pixels are not clicked, as in `training.evaluation.one_click`."""
CARELESS: Final = NOISY_STYLES[1]
"""Two fifths of the clicks miss by a little, the others are just inside the border."""
FRAME: Final = 256
"""Side in pixels that `CARELESS` counts its reach in."""

BoolMask = NDArray[np.bool_]


class View(NamedTuple):
    """An entity in the part of an image that every system is shown.

    Attributes:
        name: of image and entity; decides the chance in careless clicks.
        image: (H, W, 3) uint8.
        truth: (H, W) bool.
    """

    name: str
    image: NDArray[np.uint8]
    truth: BoolMask


def views_of(samples: Iterable[Sample], tile: int, entities: int) -> list[View]:
    """Choose entities of samples, evenly spread.

    Args:
        samples: of at least `tile` pixels a side.
        tile: side of the square around an entity that is shown; 0 shows whole samples.
        entities: upper bound.

    Raises:
        DataError: no entity is large enough to be clicked.
    """
    shown = [
        part
        for sample in samples
        for part in (entity_windows(sample, tile, MIN_AREA) if tile else [sample])
    ]
    pairs = [(part, label) for part in shown for label in entity_labels(part.instances, MIN_AREA)]
    if not pairs:
        raise DataError.of(
            "test images",
            got=f"no entity of {MIN_AREA} pixels",
            expected="entities large enough to be clicked",
            fix="give other images",
        )
    count = min(len(pairs), entities)
    chosen = (pairs[index * len(pairs) // count] for index in range(count))
    return [
        View(f"{part.name}:{label}", part.image, part.instances == label) for part, label in chosen
    ]


def careless(rng: np.random.Generator, side: int) -> Annotator:
    """Make an annotator who chooses the error as the accurate one does, but clicks badly.

    The click lies just inside the border of that error, or misses it, as `CARELESS` says. It keeps
    its kind: one that misses an entity is still positive.

    Args:
        rng: decides the places.
        side: of what is shown, in pixels.
    """
    style = replace(CARELESS, wrong_reach=max(1, round(CARELESS.wrong_reach * side / FRAME)))

    def annotate(truth: BoolMask, predicted: BoolMask, previous: Sequence[Click]) -> Click:
        click = next_click(truth, predicted, previous)
        error = error_clicked(truth, predicted, click)
        if error is None:
            return click
        (x, y), *_ = sample_prompt(error, style, rng)[0].tolist()
        return replace(click, x=x, y=y)

    return annotate


def _accurate(rng: np.random.Generator, side: int) -> Annotator:
    return next_click


ANNOTATORS: Final[Mapping[str, Callable[[np.random.Generator, int], Annotator]]] = {
    "accurate": _accurate,
    "careless": careless,
}
"""Annotators by name, made for one entity."""


class System(Protocol):
    """Interactive segmentation of one image."""

    def set_image(self, image: NDArray[np.uint8]) -> None:
        """Show an image, (H, W, 3) uint8."""

    def predict(self, clicks: Sequence[Click]) -> BoolMask:
        """Return the mask of all clicks so far, (H, W) bool; a single click begins an entity."""


class SamClicks:
    """A SAM behind `CpcSamPredictor`: takes all clicks and the logits of its last answer, mask 0.

    Attributes:
        low_res_masks: (1, 4G, 4G) float32 logits of the last answer.
    """

    low_res_masks: NDArray[np.float32]

    def __init__(self, model: CpcSam) -> None:
        self._predictor = CpcSamPredictor(TorchBackend(model))

    def set_image(self, image: NDArray[np.uint8]) -> None:
        """Show an image; see `System.set_image`."""
        self._predictor.set_image(image, tile_size=0)

    def predict(self, clicks: Sequence[Click]) -> BoolMask:
        """Segment by clicks; see `System.predict`."""
        masks, _, self.low_res_masks = self._predictor.predict(
            [(click.x, click.y) for click in clicks],
            [int(click.positive) for click in clicks],
            mask_input=self.low_res_masks if len(clicks) > 1 else None,
            multimask_output=False,
        )
        mask: BoolMask = masks[0]
        return mask


def evaluate(system: System, views: Iterable[View]) -> dict[str, list[list[float]]]:
    """Click every entity until its mask reaches the highest target or the clicks are used up.

    Returns:
        By annotator and entity, the IoU after each click.
    """
    ious: dict[str, list[list[float]]] = {name: [] for name in ANNOTATORS}
    for view in tqdm(views, desc="clicks", unit="entity", leave=False):
        system.set_image(view.image)
        for name, make in ANNOTATORS.items():
            rng = np.random.default_rng(zlib.crc32(view.name.encode()))
            annotator = make(rng, max(view.truth.shape))
            clicked = click_through(
                system.predict, view.truth, MAX_CLICKS, annotator=annotator, stop_at=TARGETS[-1]
            )
            ious[name].append(list(clicked.ious))
    return ious


def clicks_to(target: float, ious: Sequence[float]) -> int | None:
    """Number of clicks to an IoU; None if it was not reached."""
    return next((index for index, iou in enumerate(ious, 1) if iou >= target), None)
