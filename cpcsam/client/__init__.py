"""Python client of the segmentation service.

    from cpcsam.client import Prompt, SegmentationClient

    with SegmentationClient("127.0.0.1:50051") as client:
        result = client.segment("cells.png", [Prompt.click(120, 80)])

The names are imported on first use, so `import cpcsam.client` itself needs no third-party package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpcsam.client.async_client import AsyncSegmentationClient
    from cpcsam.client.images import ImageId, ImageLike, encode_image
    from cpcsam.client.masks import Mask, MaskFormat
    from cpcsam.client.prompts import LowResMask, Prompt
    from cpcsam.client.requests import ClassSearch, Everything, Example, Question
    from cpcsam.client.results import ClassInfo, Description, SegmentResult
    from cpcsam.client.sync_client import SegmentationClient
    from cpcsam.contract import MaskSelection

__all__ = [
    "AsyncSegmentationClient",
    "ClassInfo",
    "ClassSearch",
    "Description",
    "Everything",
    "Example",
    "ImageId",
    "ImageLike",
    "LowResMask",
    "Mask",
    "MaskFormat",
    "MaskSelection",
    "Prompt",
    "Question",
    "SegmentResult",
    "SegmentationClient",
    "encode_image",
]

_MODULES = {
    "cpcsam.client.async_client": ("AsyncSegmentationClient",),
    "cpcsam.client.images": ("ImageId", "ImageLike", "encode_image"),
    "cpcsam.client.masks": ("Mask", "MaskFormat"),
    "cpcsam.client.prompts": ("LowResMask", "Prompt"),
    "cpcsam.client.requests": ("ClassSearch", "Everything", "Example", "Question"),
    "cpcsam.client.results": ("ClassInfo", "Description", "SegmentResult"),
    "cpcsam.client.sync_client": ("SegmentationClient",),
    "cpcsam.contract": ("MaskSelection",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
