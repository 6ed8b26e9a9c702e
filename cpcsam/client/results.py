"""Results of the client's calls; sizes are (H, W)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cpcsam.client.images import ImageId
from cpcsam.client.masks import Mask, MaskFormat
from cpcsam.client.prompts import Prompt
from cpcsam.client.requests import ClassSearch, Everything

if TYPE_CHECKING:
    from cpcsam.images.options import Intensity

__all__ = ["ClassInfo", "Description", "Mask", "SegmentResult"]


@dataclass(frozen=True)
class SegmentResult:
    """Result of a request.

    Attributes:
        request_id: as given with the request.
        original_size: (H, W) of the image.
        prompts: of the request; for classes and everything, a click on each found entity.
        masks: for each prompt its masks: a single one, or three for `MaskSelection.ALL`.
        model_name: the serving entry point.
        model_version: its version.
        timings_ms: milliseconds in the gateway by stage: `validate`, `triton`, `total`.
        image_id: identifies the image in further requests.
        cached: whether the server had the image's embedding in its cache.
        warnings: a sentence for each way in which the model was shown the image at another scale
            than it was trained on, which costs accuracy.
        calibrated_prompts: for each prompt the points and the box as the model took them, in
            pixels of the original image; None where it does not calibrate prompts.
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
    warnings: tuple[str, ...] = ()
    calibrated_prompts: tuple[Prompt | None, ...] = ()

    def each(self) -> Iterator[tuple[int, Prompt, Mask]]:
        """Iterate over all masks: prompt index, prompt, mask."""
        for index, (prompt, masks) in enumerate(zip(self.prompts, self.masks, strict=True)):
            for mask in masks:
                yield index, prompt, mask


@dataclass(frozen=True)
class ClassInfo:
    """Class that a server knows.

    Attributes:
        name: of the class.
        prototypes: number of prototype vectors that represent it; 0 for a class by text alone.
        texts: that name it; empty for a class by examples alone.
        negatives: texts of what it must not be taken for.
    """

    name: str
    prototypes: int
    texts: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Description:
    """Model, limits and defaults of a server.

    Attributes:
        model_name: the serving entry point.
        model_version: its served version.
        model_size: `vit_t`, `vit_b`, `vit_l` or `vit_h`.
        image_size: side of the square encoder input, in pixels.
        low_res_size: number of rows and of columns of a LowResMask.
        digest: SHA-256 of the exported model.
        trained_model: SHA-256 of the training run or base that it was exported from.
        mask_prompts: whether prompts accept a mask_input.
        limits: numeric limits by name, such as `max_prompts`.
        image_formats: names of the accepted image encodings.
        mask_formats: encodings in which masks can be returned.
        gateway_version: version of the gateway.
        triton_version: version of the Triton server behind it.
        classes: names of the caller's classes.
        everything: defaults of the automatic mask generator.
        class_search: defaults of the class search.
        tile_overlap: default overlap of tiles, as a fraction of their side.
        window: side of the squares of images that the model was trained on, in pixels, the default
            `tile_size`; 0 if it was trained on whole images or does not tell.
        spread: factor by which squares of training were smaller or larger; 0 if it does not tell.
        calibrates: whether the model calibrates prompts, and can do without.
        clip: digest of the CLIP for classes by text; empty if there is none.
        intensity: the model's policy for images of more than 8 bits; None if it does not tell.
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
    window: int = 0
    spread: float = 0.0
    calibrates: bool = False
    clip: str = ""
    intensity: Intensity | None = None
