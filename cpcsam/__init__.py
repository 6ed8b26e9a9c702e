"""CPC-SAM: promptable segmentation with causally calibrated prompts.

    from cpcsam import CpcSamPredictor

    predictor = CpcSamPredictor.from_pretrained("weights/vit_t")
    predictor.set_image("cells.png")
    masks, scores, _ = predictor.predict(point_coords=[[62, 76]], point_labels=[1])

Importing the package is light: names are imported on first use, and everything else from its
module, for example `from cpcsam.client import SegmentationClient`.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpcsam.model.predictor import CpcSamPredictor

__all__ = ["CpcSamPredictor", "__version__"]

_HOME = {"CpcSamPredictor": "cpcsam.model.predictor"}

try:
    __version__ = metadata.version("cpcsam")
except metadata.PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
