"""Models and support sets for evaluation without annotators."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from cpcsam.artifacts.manifest import MANIFEST_NAME, sha256_file
from cpcsam.automatic.predictor import encode_tiles
from cpcsam.automatic.support_set import MAX_TILES, ExampleCollector, Examples, support_tiles
from cpcsam.backends.protocol import EncoderBackend
from cpcsam.errors import ContractError, DataError
from cpcsam.model.base_checkpoint import base_digest, load_base
from cpcsam.model.run_checkpoint import load_run
from cpcsam.model.sam import CpcSam
from training.data.sample import Sample, entity_labels

__all__ = ["class_names", "examples_of", "open_model", "support_set"]


def open_model(base: Path | None, run: Path | None) -> tuple[CpcSam, str]:
    """Load a base, or a run on its base, with the digest that identifies it in vocabularies.

    A base is identified by its weights' digest, a run by its manifest's, as in later artifacts.

    Args:
        base: an artifact of kind `checkpoint` or an official file; with a run, its base.
        run: an artifact of kind `run`; None takes the base alone.

    Raises:
        ArtifactError: base or run cannot be used.
    """
    if run is not None:
        return load_run(run, base), sha256_file(run / MANIFEST_NAME)
    assert base is not None
    return load_base(base), base_digest(base)


def support_set(samples: Sequence[Sample], share: float, seed: int) -> list[Sample]:
    """Draw a fraction of the samples, at least one, deterministically by list and seed."""
    count = max(1, round(share * len(samples)))
    chosen = np.random.default_rng(seed).permutation(len(samples))[:count]
    return [samples[int(index)] for index in sorted(chosen)]


def class_names(samples: Iterable[Sample]) -> tuple[str, ...]:
    """Return the classes that have an entity in the samples, sorted."""
    return tuple(
        sorted(
            {
                sample.class_of(int(label))
                for sample in samples
                for label in np.unique(sample.instances)
                if label
            }
        )
    )


def examples_of(
    samples: Iterable[Sample],
    names: Sequence[str],
    backend: EncoderBackend,
    tile: int,
    overlap: float = 0.5,
    max_tiles: int = MAX_TILES,
) -> Examples:
    """Encode annotated images tile by tile.

    Args:
        samples: the support set.
        names: the classes to take; entities of others count as background.
        backend: the model.
        tile: side of the tiles; 0 shows whole images.
        overlap: of neighbouring tiles, as a part of their side.
        max_tiles: largest number of tiles per image, chosen by `support_tiles`.

    Raises:
        DataError: no entity of these classes covers a cell.
    """
    collector = ExampleCollector(names)
    for sample in samples:
        labels = [
            label
            for label in entity_labels(sample.instances, min_area=1).tolist()
            if sample.class_of(label) in names
        ]
        tiles = support_tiles(sample.instances, labels, tile, overlap, max_tiles)
        for encoded in encode_tiles(sample.image, tiles, backend):
            collector.add(encoded, sample.instances, sample.class_of)
    try:
        return collector.examples()
    except ContractError as error:
        raise DataError(str(error)) from error
