"""Entities to prompt, and how prompts lie to them."""

from __future__ import annotations

import numpy as np

from training.data.prompt_sampling import PromptMix, jittered_box

CARELESS = PromptMix(
    box=0.4,
    several=0.4,
    centre=0.3,
    edge=0.3,
    wrong=0.5,
    wrong_reach=6,
    box_jitter=0.2,
    box_loose=0.4,
    box_shift=0.3,
    mask_noise=0.3,
)


def ring() -> np.ndarray:
    """An entity whose centroid is not one of its pixels."""
    y, x = np.mgrid[:40, :50]
    distance = np.hypot(y - 20, x - 25)
    return (distance < 12) & (distance > 5)


def disc(radius: int = 40, side: int = 256) -> np.ndarray:
    """A round entity in a frame of the encoder's size."""
    y, x = np.mgrid[:side, :side]
    return (x - 120) ** 2 + (y - 140) ** 2 <= radius**2


def distance_to(mask: np.ndarray, point: tuple[float, float]) -> float:
    """Pixels from a point to the nearest pixel of a mask."""
    rows, columns = np.nonzero(mask)
    return float(np.hypot(rows - point[1], columns - point[0]).min())


def tight(mask: np.ndarray) -> np.ndarray:
    """XYXY of the box without noise."""
    return np.array(jittered_box(mask, 0.0, np.random.default_rng(0)))


def at(mask: np.ndarray, point: tuple[float, float]) -> bool:
    return bool(mask[int(point[1]), int(point[0])])
