"""Real image of the demonstration, split into a training and a held-out part with its nuclei."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_otsu
from skimage.measure import label

from cpcsam.artifacts.manifest import read_manifest
from cpcsam.client.prompts import XY
from cpcsam.errors import DataError
from demo.commands import DemoError
from training.data.sample import Sample, entity_windows, fingerprint, highest_similarity, read_pair
from training.data.sources import Region, cut_region
from training.evaluation.one_click import ACCURATE_CLICK, CARELESS_CLICK, entity_clicks

__all__ = ["HELD_OUT", "WINDOW", "Nucleus", "Scene", "load_scene", "otsu_component"]

HELD_OUT: Final[Region] = (256, 0, 512, 512)
"""The right half; training/configs/demo.yaml trains and validates on the left one."""
WINDOW: Final = 128
MIN_AREA: Final = 30
SAME_PICTURE: Final = 0.95
"""Fingerprints of one picture, resized or recoloured, correlate above this."""


@dataclass(frozen=True)
class Nucleus:
    """A held-out nucleus in its window.

    Attributes:
        window: the square around it, shown to the model.
        corner: (X, Y) of the window in the held-out part.
        truth: (WINDOW, WINDOW) bool.
        click: (X, Y), pixels of the window: the one nearest the centroid.
        careless_click: anywhere on the nucleus, or up to 5 pixels outside it.
    """

    window: Sample
    corner: tuple[int, int]
    truth: NDArray[np.bool_]
    click: XY
    careless_click: XY


@dataclass(frozen=True)
class Scene:
    """The image, its held-out part and the nuclei to be found there.

    Attributes:
        image_path: the image file.
        instances_path: its label image.
        held_out: the held-out part.
        nuclei: of at least `MIN_AREA` pixels.
        training_similarity: highest correlation with an image that the base was trained on.
    """

    image_path: Path
    instances_path: Path
    held_out: Sample
    nuclei: tuple[Nucleus, ...]
    training_similarity: float


def load_scene(base: Path) -> Scene:
    """Load the image that the package stardist ships, and check that the base never saw it.

    Args:
        base: the base's artifact; its manifest has the fingerprints of its training images.

    Raises:
        DataError: the package or its image is missing.
        DemoError: the base was trained on this image.
    """
    package = importlib.util.find_spec("stardist")
    if package is None or not package.submodule_search_locations:
        raise DataError.of(
            "stardist", got="no such package", expected="its image", fix="run make demo"
        )
    folder = Path(package.submodule_search_locations[0]) / "data" / "images"
    image_path, instances_path = folder / "img2d.tif", folder / "mask2d.tif"
    sample = read_pair(image_path, instances_path)
    known = read_manifest(base, "checkpoint").config["train_fingerprints"].values()
    similarity = highest_similarity(fingerprint(sample.image), known)
    if similarity >= SAME_PICTURE:
        raise DemoError.of(
            str(image_path),
            got=f"correlation {similarity:.3f} with a training image of the base",
            expected=f"less than {SAME_PICTURE}",
            fix="use a base that was not trained on it",
        )
    held_out = cut_region(sample, HELD_OUT)
    return Scene(image_path, instances_path, held_out, tuple(_nuclei(held_out)), similarity)


def _nuclei(held_out: Sample) -> list[Nucleus]:
    found = []
    for window in entity_windows(held_out, WINDOW, MIN_AREA):
        # `entity_windows` appends the window's corner to its name.
        top, left = map(int, window.name.rpartition("@")[2].split(","))
        (accurate,), (careless,) = (
            entity_clicks(window, MIN_AREA, annotator).values()
            for annotator in (ACCURATE_CLICK, CARELESS_CLICK)
        )
        found.append(Nucleus(window, (left, top), window.instances > 0, accurate, careless))
    return found


def otsu_component(image: NDArray[np.uint8], click: XY) -> NDArray[np.bool_]:
    """Segment without training: the connected component of Otsu's foreground under the click.

    Args:
        image: (H, W, 3).
        click: (X, Y), pixels.
    """
    grey = image.mean(axis=2)
    components: NDArray[np.int64] = label(grey > threshold_otsu(grey))
    x, y = click
    clicked = components[int(y), int(x)]
    # Component 0 is the background: a click on it selects nothing.
    result: NDArray[np.bool_] = (components == clicked) & bool(clicked)
    return result
