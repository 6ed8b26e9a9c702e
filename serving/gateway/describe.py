"""Self-description of the gateway: the model, the limits and the default settings."""

from __future__ import annotations

from collections.abc import Sequence

import cpcsam
from cpcsam.automatic.tiling import TILE_OVERLAP
from cpcsam.entry_points import SEGMENT
from cpcsam.images.formats import IMAGE_FORMATS
from cpcsam.v1 import segmentation_pb2 as pb
from serving.gateway.context import ModelInfo
from serving.gateway.limits import MAX_POINT_SLOTS, Limits
from serving.gateway.validation.search_config import default_class_search, default_everything
from serving.gateway.vocabulary.examples import MAX_ENTITIES
from serving.gateway.vocabulary.service import MAX_EXAMPLES, MAX_NAME_LENGTH

__all__ = ["describe_response"]


def describe_response(
    model: ModelInfo, limits: Limits, max_seconds: float, classes: Sequence[str]
) -> pb.DescribeResponse:
    """Build the response to Describe.

    Args:
        model: metadata of the served model.
        limits: bounds of a request.
        max_seconds: longest time for a request.
        classes: names of the caller's classes.
    """
    return pb.DescribeResponse(
        model=pb.Model(
            name=SEGMENT.name,
            version=model.model_version,
            size=model.model_size,
            image_size=model.image_size,
            low_res_size=model.low_res_size,
            digest=model.model_digest,
            trained_model=model.trained_model,
            mask_prompts=model.mask_prompts,
            window=0 if model.scale is None else model.scale.window or 0,
            spread=0 if model.scale is None else model.scale.spread,
            intensity=pb.Intensity(**model.intensity.record()),
            calibrates=bool(model.calibrates),
            clip="" if model.clip is None else model.clip.digest,
        ),
        limits=pb.Limits(
            max_image_bytes=limits.max_image_bytes,
            max_pixels=limits.max_pixels,
            max_prompts=limits.max_prompts,
            max_points=MAX_POINT_SLOTS,
            max_in_flight=limits.max_in_flight,
            image_formats=IMAGE_FORMATS,
            cache_bytes=limits.cache_bytes,
            max_queue_seconds=limits.max_queue_s,
            max_tiles=limits.max_tiles,
            max_clicks=limits.max_clicks,
            stream_window=limits.stream_window,
            max_seconds=max_seconds,
            max_name_length=MAX_NAME_LENGTH,
            max_examples=MAX_EXAMPLES,
            max_entities=MAX_ENTITIES,
        ),
        gateway_version=cpcsam.__version__,
        triton_version=model.triton_version,
        classes=classes,
        mask_formats=pb.MaskFormat.keys(),
        everything=default_everything(),
        class_search=default_class_search(),
        tile_overlap=TILE_OVERLAP,
    )
