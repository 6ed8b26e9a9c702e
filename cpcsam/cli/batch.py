"""Concurrent segmentation of image files, with cached outputs.

Each image gets a folder: `masks.json` (a COCO dataset, written last), and optionally `overlay.png`,
`masks/001.png` and so on in the order of the annotations, and `logits.npz`.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.cli.image_paths import ImagePath
from cpcsam.client._protobuf import segment_request
from cpcsam.client.coco import coco_dataset, merge_coco
from cpcsam.client.images import encode_image
from cpcsam.client.overlay import draw_overlay
from cpcsam.client.prompts import LowResMask
from cpcsam.client.requests import SegmentRequest
from cpcsam.client.results import Description, SegmentResult
from cpcsam.client.sync_client import SegmentationClient
from cpcsam.errors import ConfigError, CpcSamError
from cpcsam.grpc_errors import (
    AuthenticationError,
    ForbiddenError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
)
from cpcsam.images.options import INTENSITY, ReadOptions
from cpcsam.images.reading import decode_image

__all__ = [
    "FileOutcome",
    "Outputs",
    "all_kept",
    "merge_outputs",
    "read_logits",
    "segment_files",
]

FATAL_ERRORS: Final = (
    AuthenticationError,
    ForbiddenError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
)
"""Errors that are not specific to an image and end the run."""
MODEL: Final = "model"
"""Key of `made_of` in `masks.json`: the digest of the exported model."""


@dataclass(frozen=True)
class Outputs:
    """Selection of outputs and their folder.

    Attributes:
        folder: parent of the folders of the images.
        overlay: whether to write `overlay.png`.
        png: whether to write each mask as a PNG file with one bit per pixel.
        overwrite: whether to segment images again whose output is up to date.
    """

    folder: Path
    overlay: bool = True
    png: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class FileOutcome:
    """Outcome of an image file.

    Attributes:
        image: the image.
        scores: of its masks; None if the existing output was up to date.
        error: of the failed request, if any.
        warnings: of the server about the request.
    """

    image: ImagePath
    scores: tuple[float, ...] | None = None
    error: CpcSamError | None = None
    warnings: tuple[str, ...] = ()


def segment_files(
    client: SegmentationClient,
    images: Sequence[ImagePath],
    request: SegmentRequest,
    outputs: Outputs,
    model: Description | None,
    jobs: int,
) -> Generator[FileOutcome, None, None]:
    """Segment image files concurrently with the same request; yields outcomes as completed.

    Args:
        client: connection to use; closed if the run is aborted.
        images: the files.
        request: its image is ignored.
        outputs: files to write.
        model: of the server; overlays show the image as it does, and outputs of another model
            are not up to date. None takes those of any model.
        jobs: number of images processed concurrently.

    Raises:
        CpcSamError: an error that is not specific to an image.
        OSError: an output cannot be written.
    """
    with ThreadPoolExecutor(jobs) as pool:
        futures: list[Future[FileOutcome]] = []
        try:
            for image in images:
                futures.append(pool.submit(_segment_file, client, image, request, outputs, model))
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            # Ends the running calls, for which leaving the pool would wait.
            client.close()
            raise


def merge_outputs(images: Sequence[ImagePath], folder: Path) -> dict[str, Any]:
    """Merge the written `masks.json` files of the images into a single COCO dataset."""
    return merge_coco(
        json.loads((folder / image.name / "masks.json").read_text()) for image in images
    )


def _segment_file(
    client: SegmentationClient,
    image: ImagePath,
    request: SegmentRequest,
    outputs: Outputs,
    model: Description | None,
) -> FileOutcome:
    folder = outputs.folder / image.name
    try:
        content = encode_image(image.path)
        cache_key = _cache_key(content, request, outputs, model)
        if _is_kept(folder, cache_key, outputs):
            return FileOutcome(image)
        result = client.send(replace(request, image=content))
        dataset = coco_dataset(image.file_name, result)
        dataset["info"]["made_of"] = cache_key
        overlay = None
        if outputs.overlay:
            options = request.read_options or ReadOptions()
            shown = options if model is None else options.or_intensity(model.intensity)
            overlay = draw_overlay(decode_image(content, options=shown), result)
    except FATAL_ERRORS:
        raise
    except CpcSamError as error:
        return FileOutcome(image, error=error)
    _clear(folder)
    if overlay is not None:
        write_atomic(folder / "overlay.png", _png(overlay))
    if outputs.png:
        for number, (_, _, mask) in enumerate(result.each(), start=1):
            write_atomic(folder / f"masks/{number:03}.png", _png(Image.fromarray(mask.array)))
    if request.low_res_masks:
        write_atomic(folder / "logits.npz", _logits(result))
    for annotation, (_, _, mask) in zip(dataset["annotations"], result.each(), strict=True):
        if mask.rings is not None:
            annotation["rings"] = mask.rings
    write_atomic(folder / "masks.json", (json.dumps(dataset) + "\n").encode())
    scores = tuple(mask.score for _, _, mask in result.each())
    return FileOutcome(image, scores, warnings=result.warnings)


def all_kept(images: Sequence[ImagePath], request: SegmentRequest, outputs: Outputs) -> bool:
    """Return whether the outputs of all images are up to date, by whatever model."""
    try:
        return all(
            _is_kept(
                outputs.folder / image.name,
                _cache_key(encode_image(image.path), request, outputs, None),
                outputs,
            )
            for image in images
        )
    except CpcSamError:  # an image that cannot be read
        return False


def _cache_key(
    content: bytes, request: SegmentRequest, outputs: Outputs, model: Description | None
) -> dict[str, Any]:
    """Return what an output is made of: a later run keeps it only if all of it is equal."""
    question = segment_request(request).SerializeToString(deterministic=True)
    key = {
        "image_id": hashlib.sha256(content).hexdigest(),
        "question": hashlib.sha256(question).hexdigest(),
        "outputs": {"overlay": outputs.overlay, "png": outputs.png},
    }
    if model is None:
        return key
    return {**key, MODEL: model.digest, INTENSITY: str(model.intensity or "")}


def _is_kept(folder: Path, cache_key: dict[str, Any], outputs: Outputs) -> bool:
    if outputs.overwrite:
        return False
    try:
        made_of = json.loads((folder / "masks.json").read_text())["info"]["made_of"]
        # Outputs of earlier releases do not tell the model.
        return all(
            made_of[name] == value
            for name, value in cache_key.items()
            if name in made_of or name not in (MODEL, INTENSITY)
        )
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _clear(folder: Path) -> None:
    """Remove earlier outputs, first `masks.json`, which marks them as complete."""
    for file in ("masks.json", "overlay.png", "logits.npz"):
        (folder / file).unlink(missing_ok=True)
    for mask in folder.glob("masks/[0-9]*.png"):
        mask.unlink()


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _logits(result: SegmentResult) -> bytes:
    """Serialise `low_res_masks` (N, 4G, 4G) and `parts` (N, 4), XYXY or NaN for all, as .npz."""
    masks = [mask.low_res_mask for _, _, mask in result.each() if mask.low_res_mask is not None]
    file = io.BytesIO()
    np.savez(
        file,
        low_res_masks=np.array([mask.logits for mask in masks]),
        parts=np.array([mask.part or (np.nan,) * 4 for mask in masks], np.float32),
    )
    return file.getvalue()


def read_logits(file: Path) -> list[LowResMask]:
    """Read the masks of a `logits.npz`, in order.

    Raises:
        ConfigError: the file is missing or not such an archive.
        ContractError: the logits are not square.
    """
    try:
        with file.open("rb") as content:
            arrays = np.load(content)  # an array where the file is no archive, without such keys
            logits, parts = arrays["low_res_masks"], arrays["parts"]
    except (OSError, EOFError, ValueError, LookupError, zipfile.BadZipFile) as error:
        raise ConfigError.of(
            str(file),
            got=getattr(error, "strerror", None) or "something else",
            expected="a logits.npz that --logits wrote",
            fix="correct the path",
        ) from error
    return [
        LowResMask.of_logits(mask, None if np.isnan(part).any() else tuple(part.tolist()))
        for mask, part in zip(logits, parts, strict=True)
    ]
