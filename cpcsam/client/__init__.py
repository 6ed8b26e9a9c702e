"""Python client of the segmentation service.

    from cpcsam.client import Prompt, SegmentationClient

    with SegmentationClient("127.0.0.1:50051") as client:
        result = client.segment("cells.png", [Prompt.click(120, 80)])

The names are imported on first use (PEP 562), so `import cpcsam.client` itself needs no third-party
package. The clients need numpy, grpcio and protobuf; encoding arrays and decoding masks needs the
extra `client` (Pillow, pycocotools). Nothing here needs torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpcsam.client.async_client import AsyncSegmentationClient
    from cpcsam.client.coco import coco_dataset, merge_coco
    from cpcsam.client.exporting import write_masks
    from cpcsam.client.images import ImageId, ImageLike, encode_image
    from cpcsam.client.masks import Mask, MaskFormat
    from cpcsam.client.overlay import draw_overlay
    from cpcsam.client.prompts import LowResMask, Prompt
    from cpcsam.client.requests import ClassSearch, Everything, Example, Question, SegmentRequest
    from cpcsam.client.results import ClassInfo, Description, SegmentResult
    from cpcsam.client.supervision_adapter import detections_of
    from cpcsam.client.sync_client import SegmentationClient
    from cpcsam.contract import MaskSelection
    from cpcsam.images.options import Intensity, ReadOptions

__all__ = [
    "AsyncSegmentationClient",
    "ClassInfo",
    "ClassSearch",
    "Description",
    "Everything",
    "Example",
    "ImageId",
    "ImageLike",
    "Intensity",
    "LowResMask",
    "Mask",
    "MaskFormat",
    "MaskSelection",
    "Prompt",
    "Question",
    "ReadOptions",
    "SegmentRequest",
    "SegmentResult",
    "SegmentationClient",
    "coco_dataset",
    "detections_of",
    "draw_overlay",
    "encode_image",
    "merge_coco",
    "write_masks",
]

_NAMES_BY_MODULE = {
    "cpcsam.client.async_client": ("AsyncSegmentationClient",),
    "cpcsam.client.coco": ("coco_dataset", "merge_coco"),
    "cpcsam.client.exporting": ("write_masks",),
    "cpcsam.client.images": ("ImageId", "ImageLike", "encode_image"),
    "cpcsam.client.masks": ("Mask", "MaskFormat"),
    "cpcsam.client.overlay": ("draw_overlay",),
    "cpcsam.client.prompts": ("LowResMask", "Prompt"),
    "cpcsam.client.requests": (
        "ClassSearch",
        "Everything",
        "Example",
        "Question",
        "SegmentRequest",
    ),
    "cpcsam.client.results": ("ClassInfo", "Description", "SegmentResult"),
    "cpcsam.client.supervision_adapter": ("detections_of",),
    "cpcsam.client.sync_client": ("SegmentationClient",),
    "cpcsam.contract": ("MaskSelection",),
    "cpcsam.images.options": ("Intensity", "ReadOptions"),
}
_MODULE_OF = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
