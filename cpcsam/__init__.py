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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpcsam.model.predictor import CpcSamPredictor

    __version__: str

__all__ = ["CpcSamPredictor", "__version__"]

_HOME = {"CpcSamPredictor": "cpcsam.model.predictor"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib import metadata  # takes as long as the start of Python

    try:
        return metadata.version("cpcsam")
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return "0+unknown"
