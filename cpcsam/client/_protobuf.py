"""Conversions between the client's dataclasses and the protobuf messages of the API."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeVar, get_args

import numpy as np
from google.protobuf.message import Message

from cpcsam.client.images import ImageId, encode_image
from cpcsam.client.masks import Mask, MaskFormat, encode_run_lengths
from cpcsam.client.prompts import XYXY, LowResMask, Prompt
from cpcsam.client.requests import ClassSearch, Everything, Example, SegmentRequest
from cpcsam.client.results import ClassInfo, Description, SegmentResult
from cpcsam.contract import PointLabel
from cpcsam.errors import ContractError
from cpcsam.images.options import Intensity, IntensityPolicy, ReadOptions
from cpcsam.v1 import segmentation_pb2 as pb

__all__ = [
    "add_class_request",
    "classes_of",
    "description_of",
    "message_of",
    "result_of",
    "segment_request",
]

MessageT = TypeVar("MessageT", bound=Message)
MASK_FORMATS: Final = frozenset(map(int, MaskFormat))
"""Values that this client knows; a newer server may list more."""


def segment_request(request: SegmentRequest) -> pb.SegmentRequest:
    """Convert a request to its message, without the image.

    Raises:
        ContractError: a value cannot be sent.
    """
    message = message_of(
        pb.SegmentRequest,
        request_id=request.request_id,
        prompts=[_prompt_message(prompt) for prompt in request.prompts],
        mask_selection=pb.MaskSelection.Name(request.mask_selection.value),
        classes=request.classes,
        mask_format=pb.MaskFormat.Name(request.mask_format.value),
        return_low_res_masks=request.low_res_masks,
        tile_size=request.tile_size,
        tile_overlap=request.tile_overlap,
        without_calibration=not request.calibrate,
        **_read_options(request.read_options),
    )
    if request.class_search is not None:
        search = message_of(pb.ClassSearch, **request.class_search.set_values())
        message.class_search.CopyFrom(search)
    if request.everything is not None:
        message.everything.CopyFrom(message_of(pb.Everything, **request.everything.set_values()))
    return message


def message_of(kind: type[MessageT], **fields: Any) -> MessageT:
    """Build a message of values that the caller gave.

    Raises:
        ContractError: a field cannot hold its value.
    """
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:
        # The error does not name the field; alone, the one that is wrong fails again.
        for name, value in fields.items() if len(fields) > 1 else ():
            message_of(kind, **{name: value})
        values = ", ".join(f"{value!r:.80}" for value in fields.values())
        raise ContractError.of(
            " or ".join(fields), got=f"{values} ({error})",
            expected="a value that the API can hold", fix="correct it",
        ) from error  # fmt: skip


def result_of(response: pb.SegmentResponse, prompts: Sequence[Prompt]) -> SegmentResult:
    """Convert a response to a result.

    Args:
        response: of the gateway.
        prompts: of the request; if empty, a click on each found entity takes their place.
    """
    points = [result.found_at for result in response.results if result.HasField("found_at")]
    size = (response.original_size.height, response.original_size.width)
    return SegmentResult(
        request_id=response.request_id,
        original_size=size,
        prompts=tuple(prompts) or tuple(Prompt.click(point.x, point.y) for point in points),
        masks=tuple(
            tuple(_mask(mask, size) for mask in result.masks) for result in response.results
        ),
        model_name=response.model_name,
        model_version=response.model_version,
        timings_ms={
            "validate": response.timings.validate_ms,
            "triton": response.timings.triton_ms,
            "total": response.timings.total_ms,
        },
        image_id=ImageId(response.image_id),
        cached=response.cached,
        warnings=tuple(response.warnings),
        calibrated_prompts=tuple(
            _prompt(result.calibrated_prompt) if result.HasField("calibrated_prompt") else None
            for result in response.results
        ),
    )


def description_of(response: pb.DescribeResponse) -> Description:
    """Convert the server's description."""
    limits = response.limits
    return Description(
        model_name=response.model.name,
        model_version=response.model.version,
        model_size=response.model.size,
        image_size=response.model.image_size,
        low_res_size=response.model.low_res_size,
        digest=response.model.digest,
        trained_model=response.model.trained_model,
        mask_prompts=response.model.mask_prompts,
        limits={
            name: getattr(limits, name)
            for name in limits.DESCRIPTOR.fields_by_name
            if name != "image_formats"
        },
        image_formats=tuple(limits.image_formats),
        mask_formats=tuple(
            MaskFormat(form) for form in map(int, response.mask_formats) if form in MASK_FORMATS
        ),
        gateway_version=response.gateway_version,
        triton_version=response.triton_version,
        classes=tuple(response.classes),
        everything=Everything.of_message(response.everything),
        class_search=ClassSearch.of_message(response.class_search),
        tile_overlap=response.tile_overlap,
        window=response.model.window,
        spread=response.model.spread,
        calibrates=response.model.calibrates,
        clip=response.model.clip,
        intensity=_intensity_of(response.model),
    )


def _intensity_of(model: pb.Model) -> Intensity | None:
    """Return the model's policy; None if it does not tell, or tells one of a later release."""
    told = model.intensity
    if told.policy not in get_args(IntensityPolicy):
        return None
    return Intensity(told.policy, told.low, told.high)  # type: ignore[arg-type]


def add_class_request(
    name: str,
    examples: Sequence[Example],
    tile_size: int | None,
    texts: Sequence[str] = (),
    negatives: Sequence[str] = (),
) -> pb.AddClassRequest:
    """Build the message that adds a class, from the arguments of `SegmentationClient.add_class`.

    Raises:
        ContractError: a value or an image cannot be sent, or texts are a single string.
    """
    for what, given in (("texts", texts), ("negatives", negatives)):
        if isinstance(given, str):
            raise ContractError.of(
                what, got=repr(given), expected="a sequence of texts", fix=f"pass [{given!r}]"
            )
    return message_of(
        pb.AddClassRequest,
        name=name,
        examples=[_example(example) for example in examples],
        tile_size=tile_size,
        texts=texts,
        negatives=negatives,
    )


def classes_of(response: pb.ListClassesResponse) -> tuple[ClassInfo, ...]:
    """Convert the list of known classes."""
    return tuple(
        ClassInfo(known.name, known.prototypes, tuple(known.texts), tuple(known.negatives))
        for known in response.classes
    )


def _example(example: Example) -> pb.Example:
    labels = np.unique(example.instances)
    masks = [example.instances == label for label in labels if label]
    return message_of(
        pb.Example,
        image_bytes=encode_image(example.image),
        entities=[_coco_rle(mask.shape, encode_run_lengths(mask)) for mask in masks],
        **_read_options(example.read_options),
    )


def _read_options(options: ReadOptions | None) -> dict[str, Any]:
    """Return the fields of a message for what was chosen."""
    if options is None:
        return {}
    intensity = options.intensity
    return {
        "page": options.page,
        "channels": options.channels,
        "intensity": None if intensity is None else pb.Intensity(**intensity.record()),
    }


def _prompt_message(prompt: Prompt) -> pb.Prompt:
    message = pb.Prompt(
        points=[
            pb.Point(x=x, y=y, background=label == PointLabel.BACKGROUND)
            for (x, y), label in zip(prompt.point_coords, prompt.point_labels, strict=True)
        ]
    )
    if prompt.box is not None:
        message.box.CopyFrom(_box_message(prompt.box))
    if prompt.mask_input is not None:
        message.mask_input.logits = prompt.mask_input.content
        if prompt.mask_input.part is not None:
            message.mask_input.part.CopyFrom(_box_message(prompt.mask_input.part))
    if prompt.mask is not None:
        message.mask.CopyFrom(_binary_mask(prompt.mask))
    return message


def _prompt(message: pb.Prompt) -> Prompt:
    """Convert the points and the box of a prompt."""
    return Prompt(
        tuple((point.x, point.y) for point in message.points),
        tuple(int(not point.background) for point in message.points),
        _xyxy(message.box) if message.HasField("box") else None,
    )


def _binary_mask(mask: Any) -> pb.BinaryMask:
    """Make a message of an array, a PNG file's bytes or COCO RLE.

    Raises:
        ContractError: it is none of them.
    """
    if isinstance(mask, bytes):
        return pb.BinaryMask(png=mask)
    if isinstance(mask, np.ndarray) and mask.ndim == 2:
        return pb.BinaryMask(coco_rle=_coco_rle(mask.shape, encode_run_lengths(mask != 0)))
    try:
        counts = mask["counts"]
        text = counts.decode("ascii") if isinstance(counts, bytes) else counts
        return pb.BinaryMask(coco_rle=_coco_rle(mask["size"], text))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ContractError.of(
            "mask",
            got=f"{type(mask).__name__} ({error})",
            expected="an array (H, W), a PNG file's bytes, or compressed COCO RLE",
            fix="pass one of them",
        ) from error


def _coco_rle(size: Iterable[Any], counts: str) -> pb.CocoRle:
    height, width = map(int, size)
    return pb.CocoRle(size=pb.Size(height=height, width=width), counts=counts)


def _box_message(box: XYXY) -> pb.Box:
    x0, y0, x1, y1 = box
    return pb.Box(x0=x0, y0=y0, x1=x1, y1=y1)


def _mask(message: pb.Mask, size: tuple[int, int]) -> Mask:
    low_res = message.low_res_mask
    rings = [ring.coordinates for ring in message.polygons.rings]
    return Mask(
        size=size,
        counts=message.coco_rle.counts,
        score=message.score,
        box=_xyxy(message.box),
        area=message.area,
        label=message.label,
        stability=message.stability,
        png=message.png,
        # An empty mask has no rings either: only the field's presence gives the format.
        rings=tuple(tuple(zip(ring[::2], ring[1::2], strict=True)) for ring in rings)
        if message.HasField("polygons")
        else None,
        low_res_mask=LowResMask(
            low_res.logits, _xyxy(low_res.part) if low_res.HasField("part") else None
        )
        if message.HasField("low_res_mask")
        else None,
    )


def _xyxy(box: pb.Box) -> XYXY:
    return box.x0, box.y0, box.x1, box.y1
