"""Simulated annotators: clicks, boxes and coarse masks of an entity, some of them careless."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cpcsam.checks import require_range
from cpcsam.contract import PointLabel
from cpcsam.errors import ConfigError
from cpcsam.mask_prompts import MASK_LOGIT

__all__ = [
    "MAX_SLOTS",
    "PromptMix",
    "accurate_points",
    "central_pixel",
    "coarse_mask",
    "jittered_box",
    "pixel_at_edge",
    "pixel_inside",
    "pixel_outside",
    "pixel_wrong",
    "sample_prompt",
]

MAX_SLOTS = 4
"""Point slots of a simulated prompt; a box takes two."""

EDGE_WIDTH = 2
"""In pixels: clicks near the border are this close to it."""

BoolMask = NDArray[np.bool_]
Slots = tuple[NDArray[np.float32], NDArray[np.int32]]


@dataclass(frozen=True)
class PromptMix:
    """A simulated annotator. The probabilities of the kinds of prompts sum to at most 1.

    Attributes:
        box: probability of a box instead of clicks.
        several: of a box or click with further clicks; the rest are single clicks.
        mask: of a coarse mask in addition to the clicks or the box.
        centre: of the first clicks, those in the entity's centre.
        edge: of the first clicks, those just inside its border; the others are anywhere inside.
        wrong: of the positive clicks, those that miss the entity by a little.
        wrong_reach: by how many pixels at most, in the encoder's frame.
        box_jitter: standard deviation of every box side, in box sides.
        box_loose: how much larger boxes are at most, in box sides.
        box_shift: standard deviation of the whole box's place, in box sides.
        mask_cells: cells a side of the grid in which a coarse mask is drawn.
        mask_noise: standard deviation of the noise on each cell's coverage.
    """

    box: float = 0.25
    several: float = 0.15
    mask: float = 0.0
    centre: float = 0.4
    edge: float = 0.0
    wrong: float = 0.0
    wrong_reach: int = 3
    box_jitter: float = 0.1
    box_loose: float = 0.0
    box_shift: float = 0.0
    mask_cells: int = 16
    mask_noise: float = 0.15

    def __post_init__(self) -> None:
        """Refuse shares outside [0, 1], noise below 0 and a grid without cells."""
        names = ("box", "several", "mask", "centre", "edge", "wrong")
        shares = {name: getattr(self, name) for name in names}
        shares |= {
            "box + several": self.box + self.several,
            "centre + edge": self.centre + self.edge,
        }
        for name, value in shares.items():
            require_range(name, value, 0, 1)
        require_range("mask_cells", self.mask_cells, 1)
        for name in ("wrong_reach", "box_jitter", "box_loose", "box_shift", "mask_noise"):
            require_range(name, getattr(self, name), 0)

    def scaled(self, strength: float) -> PromptMix:
        """Scale the annotator's carelessness.

        Args:
            strength: factor of everything that departs from an accurate annotation; 0 leaves
                accurate ones, 1 changes nothing.
        """
        return replace(
            self,
            wrong=min(1.0, self.wrong * strength),
            box_jitter=self.box_jitter * strength,
            box_loose=self.box_loose * strength,
            box_shift=self.box_shift * strength,
            mask_noise=self.mask_noise * strength,
        )


def central_pixel(mask: BoolMask) -> tuple[float, float]:
    """Return (X, Y) of the entity's pixel nearest to its centroid."""
    rows, columns = np.divmod(np.flatnonzero(mask), mask.shape[1])
    # The centroid itself may lie off the entity, as in a crescent.
    distance = (rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2
    nearest = int(distance.argmin())
    return float(columns[nearest]), float(rows[nearest])


def pixel_inside(mask: BoolMask, rng: np.random.Generator) -> tuple[float, float]:
    """Draw (X, Y) of a random pixel of the entity."""
    # One index a pixel, as NumPy lists those in a tenth of the time that it takes for two.
    indices = np.flatnonzero(mask)
    chosen = int(indices[rng.integers(len(indices))])
    row, column = divmod(chosen, mask.shape[1])
    return float(column), float(row)


def pixel_at_edge(mask: BoolMask, rng: np.random.Generator) -> tuple[float, float]:
    """Draw (X, Y) of a random pixel of the entity next to its border."""
    part, (left, top) = _around(mask, EDGE_WIDTH)
    # Erosion takes what is beyond the image for background, so entities cut off there end there.
    border = part & ~ndimage.binary_erosion(part, iterations=EDGE_WIDTH)
    x, y = pixel_inside(border, rng)
    return x + left, y + top


def pixel_outside(mask: BoolMask, rng: np.random.Generator) -> tuple[float, float]:
    """Draw (X, Y) of a random pixel near the entity but outside it."""
    height, width = mask.shape
    x0, y0, x1, y1 = _tight_box(mask)
    # At least 8, so that a tiny entity has some background around it to draw from.
    reach = max(x1 - x0, y1 - y0, 8)
    near = np.zeros_like(mask)
    near[max(0, y0 - reach) : y1 + reach, max(0, x0 - reach) : x1 + reach] = True
    candidates = near & ~mask
    if not candidates.any():
        return float(rng.integers(width)), float(rng.integers(height))
    return pixel_inside(candidates, rng)


def pixel_wrong(mask: BoolMask, rng: np.random.Generator, reach: int = 3) -> tuple[float, float]:
    """Draw (X, Y) of a mistaken foreground click: at most `reach` pixels outside the border."""
    part, (left, top) = _around(mask, reach)
    rim = ndimage.binary_dilation(part, iterations=reach) & ~part if reach else part
    x, y = pixel_inside(rim if rim.any() else part, rng)
    return x + left, y + top


def accurate_points(mask: BoolMask) -> NDArray[np.float32]:
    """Return the point of each kind that an accurate annotator would set.

    Returns:
        (5, 2) float32, (X, Y), by `PointLabel`: a click on the entity is in its centre, corners
        are those of its tight box; (0, 0) for the others.
    """
    x0, y0, x1, y1 = _tight_box(mask)
    # A row for each label, and a last one, of zeros, that EMPTY (-1) indexes.
    places = np.zeros((max(PointLabel) + 2, 2), np.float32)
    places[PointLabel.FOREGROUND] = central_pixel(mask)
    places[PointLabel.BOX_TOP_LEFT] = x0, y0
    places[PointLabel.BOX_BOTTOM_RIGHT] = x1, y1
    return places


def _around(mask: BoolMask, margin: int) -> tuple[BoolMask, tuple[int, int]]:
    """Crop a mask to the entity and a margin; return the crop and its top left corner, (X, Y)."""
    x0, y0, x1, y1 = _tight_box(mask)
    left, top = max(0, x0 - margin), max(0, y0 - margin)
    return mask[top : y1 + margin, left : x1 + margin], (left, top)


def _tight_box(mask: BoolMask) -> tuple[int, int, int, int]:
    """Return the XYXY box, the far corner exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def jittered_box(
    mask: BoolMask,
    jitter: float,
    rng: np.random.Generator,
    *,
    loose: float = 0.0,
    shift: float = 0.0,
) -> tuple[float, float, float, float]:
    """Return the XYXY box around the entity with noise in units of the box's sides.

    Args:
        mask: (S, S) bool.
        jitter: standard deviation of every side, drawn one by one.
        rng: decides everything.
        loose: the box grows by a share drawn from 0 to this.
        shift: standard deviation of the box's place.
    """
    height, width = mask.shape
    box = np.array(_tight_box(mask), np.float64)
    sides = np.tile(box[2:] - box[:2], 2)
    box += rng.normal(0, 1, 4) * jitter * sides
    if loose:
        box += rng.uniform(0, loose / 2) * sides * [-1, -1, 1, 1]
    if shift:
        box += np.tile(rng.normal(0, shift, 2), 2) * sides
    # Noise may swap two opposite sides or push both beyond the border.
    left, right = sorted(box[[0, 2]].clip(0, width))
    top, bottom = sorted(box[[1, 3]].clip(0, height))
    return float(left), float(top), max(float(right), left + 1), max(float(bottom), top + 1)


def coarse_mask(
    mask: BoolMask, mix: PromptMix, side: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw a coarse mask of the entity in a few large cells, as a hurried annotator would.

    Args:
        mask: (S, S) bool with at least one pixel.
        mix: `mask_cells`, a divisor of `side`, and `mask_noise`.
        side: 4G, cells a side of the result.
        rng: decides the noise.

    Returns:
        (1, side, side) float32 logits, `mask_input` of the tensor contract.

    Raises:
        ConfigError: the cells do not fill the result.
    """
    cells = mix.mask_cells
    if side % cells:
        raise ConfigError.of(
            "mask_cells", got=cells, expected=f"a divisor of {side}", fix="correct the mix"
        )
    block = len(mask) // cells
    covered = mask.reshape(cells, block, cells, block).mean((1, 3))
    # (cells, cells); noise only where the entity is, as nobody draws in far-off cells.
    noisy = covered + rng.normal(0, mix.mask_noise, covered.shape) * (covered > 0)
    # An entity that fills half of no cell still gets its fullest one.
    drawn = (noisy >= 0.5) | (covered == covered.max())
    logits = np.where(drawn, MASK_LOGIT, -MASK_LOGIT).astype(np.float32)
    return logits.repeat(side // cells, 0).repeat(side // cells, 1)[None]


def sample_prompt(mask: BoolMask, mix: PromptMix, rng: np.random.Generator) -> Slots:
    """Draw a random prompt of an entity.

    Args:
        mask: (S, S) bool with at least one pixel, the encoder's frame.
        mix: probabilities.
        rng: decides everything.

    Returns:
        point_coords (MAX_SLOTS, 2) float32, (X, Y), and point_labels (MAX_SLOTS,) int32.
    """
    coords = np.zeros((MAX_SLOTS, 2), np.float32)
    labels = np.full(MAX_SLOTS, PointLabel.EMPTY, np.int32)
    kind = rng.random()
    several = mix.box <= kind < mix.box + mix.several
    if kind < mix.box or (several and rng.random() < 0.5):
        box = jittered_box(mask, mix.box_jitter, rng, loose=mix.box_loose, shift=mix.box_shift)
        coords[:2] = np.reshape(box, (2, 2))
        labels[:2] = PointLabel.BOX_TOP_LEFT, PointLabel.BOX_BOTTOM_RIGHT
        filled = 2
    else:
        coords[0] = _first_click(mask, mix, rng)
        labels[0] = PointLabel.FOREGROUND
        filled = 1
    if several:
        # integers excludes its end: at least one further click, at most until all slots are full.
        for slot in range(filled, rng.integers(filled + 1, MAX_SLOTS + 1)):
            inside = rng.random() < 0.5
            coords[slot] = _further_click(mask, mix, rng) if inside else pixel_outside(mask, rng)
            labels[slot] = PointLabel.FOREGROUND if inside else PointLabel.BACKGROUND
    return coords, labels


def _first_click(mask: BoolMask, mix: PromptMix, rng: np.random.Generator) -> tuple[float, float]:
    if rng.random() < mix.wrong:
        return pixel_wrong(mask, rng, mix.wrong_reach)
    place = rng.random()
    if place < mix.centre:
        return central_pixel(mask)
    return pixel_at_edge(mask, rng) if place < mix.centre + mix.edge else pixel_inside(mask, rng)


def _further_click(mask: BoolMask, mix: PromptMix, rng: np.random.Generator) -> tuple[float, float]:
    if mix.wrong and rng.random() < mix.wrong:
        return pixel_wrong(mask, rng, mix.wrong_reach)
    return pixel_inside(mask, rng)
