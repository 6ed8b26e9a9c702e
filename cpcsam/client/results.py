"""Answers as the clients' callers see them; sizes are (H, W)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cpcsam.client.images import ImageId
from cpcsam.client.masks import Mask, MaskFormat
from cpcsam.client.prompts import Prompt
from cpcsam.client.requests import ClassSearch, Everything

__all__ = ["ClassInfo", "Description", "Mask", "SegmentResult"]


@dataclass(frozen=True)
class SegmentResult:
    """The answer to one request.

    Attributes:
        request_id: as given with the request.
        original_size: (H, W) of the image.
        prompts: the prompts asked; where entities were found instead, a click on each.
        masks: for each prompt its masks: one, or three for `MaskSelection.ALL`.
        model_name: the serving entry point that answered.
        model_version: its version.
        timings_ms: milliseconds in the gateway by stage: `validate`, `triton`, `total`.
        image_id: names the image in further requests.
        cached: whether the server knew the image, so that it had to encode nothing.
    """

    request_id: str
    original_size: tuple[int, int]
    prompts: tuple[Prompt, ...]
    masks: tuple[tuple[Mask, ...], ...]
    model_name: str
    model_version: str
    timings_ms: dict[str, float]
    image_id: ImageId = ImageId("")
    cached: bool = False

    def each(self) -> Iterator[tuple[int, Prompt, Mask]]:
        """All masks in a row, each with its prompt and that one's index."""
        for index, (prompt, masks) in enumerate(zip(self.prompts, self.masks, strict=True)):
            for mask in masks:
                yield index, prompt, mask


@dataclass(frozen=True)
class ClassInfo:
    """A class that a server knows.

    Attributes:
        name: of the class.
        prototypes: by so many it is known.
    """

    name: str
    prototypes: int


@dataclass(frozen=True)
class Description:
    """What a server says of itself.

    Attributes:
        model_name: the serving entry point.
        model_version: the version of it that answers.
        model_size: `vit_t`, `vit_b`, `vit_l` or `vit_h`.
        image_size: side of the square that images are resized into, in pixels.
        low_res_size: rows and columns of a LowResMask.
        digest: SHA-256 of the exported model.
        trained_model: SHA-256 of the run or base that it was exported from.
        mask_prompts: whether prompts may have a mask_input.
        limits: name of each numeric limit and its value, such as `max_prompts`.
        image_formats: names of the accepted encodings.
        mask_formats: in which masks can be returned.
        gateway_version: version of the gateway.
        triton_version: version of the Triton server behind it.
        classes: names of the caller's classes.
        everything: what is taken where a request does not say it.
        class_search: likewise.
        tile_overlap: likewise.
    """

    model_name: str
    model_version: str
    model_size: str
    image_size: int
    low_res_size: int
    digest: str
    trained_model: str
    mask_prompts: bool
    limits: dict[str, int | float]
    image_formats: tuple[str, ...]
    mask_formats: tuple[MaskFormat, ...]
    gateway_version: str
    triton_version: str
    classes: tuple[str, ...]
    everything: Everything
    class_search: ClassSearch
    tile_overlap: float
