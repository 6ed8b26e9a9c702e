"""Mapping between the API's messages of search parameters and their configuration.

The wire keeps its names; the configuration has segment-anything's. This is the only place that
knows both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from cpcsam.automatic.config import ClassSearchConfig, MaskGeneratorConfig
from cpcsam.errors import ConfigError, ContractError
from cpcsam.v1 import segmentation_pb2 as pb

__all__ = [
    "class_search_config",
    "default_class_search",
    "default_everything",
    "mask_generator_config",
]

Config = TypeVar("Config")

EVERYTHING_FIELDS: Final[Mapping[str, str]] = {
    "points_per_side": "points_per_side",
    "min_iou": "pred_iou_thresh",
    "min_stability": "stability_score_thresh",
    "stability_offset": "stability_score_offset",
    "max_box_iou": "box_nms_thresh",
    "crop_layers": "crop_n_layers",
    "crop_overlap": "crop_overlap_ratio",
    "crop_points_divisor": "crop_n_points_downscale_factor",
    "max_crop_box_iou": "crop_nms_thresh",
    "min_area": "min_mask_region_area",
}
"""Field of `pb.Everything` to field of `MaskGeneratorConfig`."""
CLASS_SEARCH_FIELDS: Final[Mapping[str, str]] = {
    field.name: field.name for field in pb.ClassSearch.DESCRIPTOR.fields
}
"""Field of `pb.ClassSearch` to field of `ClassSearchConfig`; others cannot be set by a caller."""


def mask_generator_config(message: pb.Everything) -> MaskGeneratorConfig:
    """Read the parameters that a message sets; the others have their defaults.

    Raises:
        ContractError: a value out of range, named as on the wire.
    """
    return _read(MaskGeneratorConfig, "everything", EVERYTHING_FIELDS, message)


def class_search_config(message: pb.ClassSearch) -> ClassSearchConfig:
    """Read the parameters that a message sets; see `mask_generator_config`."""
    return _read(ClassSearchConfig, "class_search", CLASS_SEARCH_FIELDS, message)


def default_everything() -> pb.Everything:
    """Return the default parameters of the automatic mask generator."""
    defaults = asdict(MaskGeneratorConfig())
    return pb.Everything(**{wire: defaults[field] for wire, field in EVERYTHING_FIELDS.items()})


def default_class_search() -> pb.ClassSearch:
    """Return the default parameters of the search for classes."""
    defaults = asdict(ClassSearchConfig())
    return pb.ClassSearch(**{wire: defaults[field] for wire, field in CLASS_SEARCH_FIELDS.items()})


def _read(
    config: Callable[..., Config], name: str, fields: Mapping[str, str], message: Message
) -> Config:
    given: dict[str, Any] = {field.name: value for field, value in message.ListFields()}
    try:
        return config(**{fields[wire]: value for wire, value in given.items()})
    except ConfigError as error:
        field, colon, rest = str(error).partition(":")
        wire = {ours: theirs for theirs, ours in fields.items()}.get(field, field)
        raise ContractError(f"{name}.{wire}{colon}{rest}") from error
