"""Export of results in the formats of annotation tools."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cpcsam.client.results import SegmentResult
from cpcsam.errors import ContractError
from cpcsam.formats import UNNAMED
from cpcsam.formats.names import names_of

if TYPE_CHECKING:
    from cpcsam.formats.records import ImageRecord
    from cpcsam.formats.writing import FormatSummary
    from cpcsam.images.options import ReadOptions

__all__ = ["write_masks"]


def write_masks(
    results: Mapping[str, SegmentResult] | Mapping[Path, SegmentResult],
    format: str,
    folder: str | Path,
    *,
    read_options: ReadOptions | None = None,
) -> FormatSummary:
    """Write the masks of results in a format; readers see the whole folder or the one before.

    Args:
        results: by the path of the image, by which the format names it, relative to the common
            folder of all. Formats that hold images copy them from there, if the files exist.
        format: one of `cpcsam.formats.FORMATS`.
        folder: new, empty, or written by an earlier call, which it replaces.
        read_options: page, channels and intensity with which the images were segmented; without an
            intensity, images of more than 8 bits are copied by the default policy, not by that of
            the model, which `describe().intensity` tells.

    Returns:
        What was written, and counts of what the format could not hold.

    Raises:
        ConfigError: there is no such format, or the folder holds other files.
        ContractError: there is no result, masks have no pixels, or an image has another size.
        ModuleNotFoundError: the extra `client`, for ome-zarr the extra `ome-zarr`, is missing.
    """
    from cpcsam.formats.writing import write_format

    if not results:
        raise ContractError.of(
            "results", got="none", expected="at least one", fix="segment an image"
        )
    return write_format(_records(results, read_options), format, Path(folder))


def _records(
    results: Mapping[str, SegmentResult] | Mapping[Path, SegmentResult],
    read_options: ReadOptions | None,
) -> Iterator[ImageRecord]:
    from cpcsam.formats.records import ImageRecord, MaskRecord

    # Not resolved: behind links, images keep the names that the user knows.
    paths = [Path(os.path.abspath(key)) for key in results]
    shared = Path(os.path.commonpath([path.parent for path in paths]))
    named = zip(paths, names_of(paths, shared), results.values(), strict=True)
    for path, (file_name, name), result in named:
        masks = [
            MaskRecord.of_mask(
                mask.array,
                label=mask.label or UNNAMED,
                score=mask.score,
                stability=mask.stability,
                prompt_index=index,
                prompt={
                    "point_coords": [list(point) for point in prompt.point_coords],
                    "point_labels": list(prompt.point_labels),
                    "box": None if prompt.box is None else list(prompt.box),
                },
            )
            for index, prompt, mask in result.each()
        ]
        at_hand = path if path.is_file() else None
        model = f"{result.model_name} {result.model_version}"
        size = result.original_size
        yield ImageRecord(file_name, name, size, masks, at_hand, model, read_options)
