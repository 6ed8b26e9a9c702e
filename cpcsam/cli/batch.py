"""Segmenting many image files at once, and what is written about each.

A folder for each image: `masks.json` (a COCO dataset, written last), and by choice `overlay.png`,
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
from cpcsam.client.requests import Question
from cpcsam.client.results import SegmentResult
from cpcsam.client.sync_client import SegmentationClient
from cpcsam.errors import ConfigError, CpcSamError
from cpcsam.grpc_errors import (
    AuthenticationError,
    ForbiddenError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
)
from cpcsam.transforms import decode_image

__all__ = ["Done", "Outputs", "merge_outputs", "read_logits", "segment_files"]

NOT_THE_IMAGES: Final = (
    AuthenticationError,
    ForbiddenError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
)
"""Errors that every further image would meet as well."""


@dataclass(frozen=True)
class Outputs:
    """What is written, and where.

    Attributes:
        folder: holds the folders of the images.
        overlay: whether to draw `overlay.png`.
        png: whether to write each mask as a PNG file of one bit a pixel.
        overwrite: whether to ask again where the same question is answered already.
    """

    folder: Path
    overlay: bool = True
    png: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Done:
    """What became of one image.

    Attributes:
        image: the image.
        scores: of its masks; None where an earlier answer was kept.
        error: why there is no answer.
    """

    image: ImagePath
    scores: tuple[float, ...] | None = None
    error: CpcSamError | None = None


def segment_files(
    client: SegmentationClient,
    images: Sequence[ImagePath],
    question: Question,
    outputs: Outputs,
    jobs: int,
) -> Generator[Done, None, None]:
    """Ask the same about many images, several at once; yields each as it is done.

    Args:
        client: that is asked; it is closed where the work is broken off.
        images: the files.
        question: its image is not looked at.
        outputs: what to write.
        jobs: images in work at once.

    Raises:
        CpcSamError: what every further image would meet as well.
        OSError: an output cannot be written.
    """
    with ThreadPoolExecutor(jobs) as pool:
        work: list[Future[Done]] = []
        try:
            for image in images:
                work.append(pool.submit(_segment_file, client, image, question, outputs))
            for future in as_completed(work):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            client.close()
            raise


def merge_outputs(images: Sequence[ImagePath], folder: Path) -> dict[str, Any]:
    """One COCO dataset of what was written about the images."""
    return merge_coco(
        json.loads((folder / image.name / "masks.json").read_text()) for image in images
    )


def _segment_file(
    client: SegmentationClient, image: ImagePath, question: Question, outputs: Outputs
) -> Done:
    folder = outputs.folder / image.name
    try:
        content = encode_image(image.path)
        # What an output is made of: kept by a second run only if all of it is the same.
        made_of = {
            "image_id": hashlib.sha256(content).hexdigest(),
            "question": hashlib.sha256(
                segment_request(question).SerializeToString(deterministic=True)
            ).hexdigest(),
            "outputs": {"overlay": outputs.overlay, "png": outputs.png},
        }
        if not outputs.overwrite and _made_of(folder / "masks.json") == made_of:
            return Done(image)
        result = client.ask(replace(question, image=content))
        dataset = coco_dataset(image.file_name, result)
        dataset["info"]["made_of"] = made_of
        overlay = draw_overlay(decode_image(content), result) if outputs.overlay else None
    except NOT_THE_IMAGES:
        raise
    except CpcSamError as error:
        return Done(image, error=error)
    _clear(folder)
    if overlay is not None:
        write_atomic(folder / "overlay.png", _png(overlay))
    if outputs.png:
        for number, (_, _, mask) in enumerate(result.each(), start=1):
            write_atomic(folder / f"masks/{number:03}.png", _png(Image.fromarray(mask.array)))
    if question.low_res_masks:
        write_atomic(folder / "logits.npz", _logits(result))
    for annotation, (_, _, mask) in zip(dataset["annotations"], result.each(), strict=True):
        if mask.rings is not None:
            annotation["rings"] = mask.rings
    write_atomic(folder / "masks.json", (json.dumps(dataset) + "\n").encode())
    return Done(image, tuple(mask.score for _, _, mask in result.each()))


def _made_of(file: Path) -> Any:
    try:
        return json.loads(file.read_text())["info"]["made_of"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _clear(folder: Path) -> None:
    """Remove what an earlier answer left, beginning with what says that it is whole."""
    for file in ("masks.json", "overlay.png", "logits.npz"):
        (folder / file).unlink(missing_ok=True)
    for mask in folder.glob("masks/[0-9]*.png"):
        mask.unlink()


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _logits(result: SegmentResult) -> bytes:
    """`low_res_masks` (N, 4G, 4G) and `parts` (N, 4), XYXY or NaN for the whole image."""
    masks = [mask.low_res_mask for _, _, mask in result.each() if mask.low_res_mask is not None]
    file = io.BytesIO()
    np.savez(
        file,
        low_res_masks=np.array([mask.logits for mask in masks]),
        parts=np.array([mask.part or (np.nan,) * 4 for mask in masks], np.float32),
    )
    return file.getvalue()


def read_logits(file: Path) -> list[LowResMask]:
    """The masks of a `logits.npz`, in its order.

    Raises:
        ConfigError: no such file.
        ContractError: no such logits.
    """
    try:
        with np.load(file) as arrays:
            logits, parts = arrays["low_res_masks"], arrays["parts"]
    except (OSError, ValueError, LookupError, zipfile.BadZipFile) as error:
        raise ConfigError.of(
            str(file),
            got=getattr(error, "strerror", None) or "something else",
            expected="a logits.npz that --logits wrote",
            fix="correct the path",
        ) from error
    return [
        LowResMask.of_logits(one, None if np.isnan(part).any() else tuple(part.tolist()))
        for one, part in zip(logits, parts, strict=True)
    ]
