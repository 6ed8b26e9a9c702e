"""Golden answers of a model version: images and prompts with the masks that its graphs give.

They are computed when the version is published and lie in its folder, covered by its manifest. A
server compares its own answers with them before it lets clients reach the version.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.errors import ArtifactError, ServingError

__all__ = ["GOLDEN_NAME", "GoldenCase", "read_golden", "require_same", "write_golden"]

GOLDEN_NAME: Final = "golden.npz"
TOLERANCE: Final = "tolerance"


@dataclass(frozen=True)
class GoldenCase:
    """An image with prompts, and the first mask of each prompt; P prompts of N points.

    Attributes:
        image_bytes: the image file, (bytes,) uint8.
        point_coords: (P, N, 2) float32, pixels of the image, (X, Y).
        point_labels: (P, N) int32, `PointLabel`.
        low_res_masks: (P, 4G, 4G) float32, logits.
        scores: (P,) float32, predicted IoU.
        refined_masks: likewise, with `low_res_masks` as mask prompts.
        refined_scores: (P,) float32 of those.
    """

    image_bytes: NDArray[np.uint8]
    point_coords: NDArray[np.float32]
    point_labels: NDArray[np.int32]
    low_res_masks: NDArray[np.float32]
    scores: NDArray[np.float32]
    refined_masks: NDArray[np.float32]
    refined_scores: NDArray[np.float32]


FIELDS: Final = tuple(field.name for field in fields(GoldenCase))
ANSWERS: Final = FIELDS[3:]


def write_golden(path: Path, cases: Sequence[GoldenCase], tolerance: float) -> None:
    """Write golden answers to a file.

    Args:
        path: of the file.
        cases: images with their answers.
        tolerance: largest difference of an answer, relative to its largest absolute value.
    """
    arrays: dict[str, NDArray[Any]] = {TOLERANCE: np.array(tolerance)}
    for number, case in enumerate(cases):
        arrays |= {f"{name}_{number}": getattr(case, name) for name in FIELDS}
    np.savez_compressed(path, **arrays)


def read_golden(version: Path) -> tuple[list[GoldenCase], float] | None:
    """Read the golden answers of a version, and their tolerance; None if it has none.

    Raises:
        ArtifactError: the file is not one that `write_golden` wrote.
    """
    path = version / GOLDEN_NAME
    if not path.exists():
        return None
    try:
        with np.load(path) as arrays:
            count = sum(name.startswith(f"{FIELDS[0]}_") for name in arrays)
            cases = [
                GoldenCase(**{name: arrays[f"{name}_{number}"] for name in FIELDS})
                for number in range(count)
            ]
            return cases, float(arrays[TOLERANCE])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ArtifactError.of(
            str(path),
            got=f"an unreadable file ({error})",
            expected="golden answers",
            fix="publish the version again",
        ) from error


def require_same(
    case: GoldenCase, answers: Mapping[str, NDArray[Any]], tolerance: float, name: str
) -> None:
    """Compare answers with golden ones.

    Args:
        case: the golden answers.
        answers: by the names of `ANSWERS`, of the same shapes.
        tolerance: as of `write_golden`.
        name: of the case, for the message.

    Raises:
        ServingError: an answer differs by more.
    """
    for field in ANSWERS:
        expected, got = getattr(case, field), answers[field]
        scale = max(float(np.abs(expected).max()), float(np.finfo(np.float32).tiny))
        same_shape = got.shape == expected.shape
        difference = float(np.abs(got - expected).max()) / scale if same_shape else np.inf
        if not difference <= tolerance:  # NaN differs, too
            raise ServingError.of(
                f"golden answers, {name}, {field}",
                got=f"a relative difference of {difference:.2g}",
                expected=f"at most {tolerance:g}",
                fix="publish graphs that compute what they were exported to",
            )
