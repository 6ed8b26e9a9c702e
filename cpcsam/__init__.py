"""CPC-SAM: promptable segmentation with causally calibrated prompts.

Importing the package is light; import what you need from its modules, for example
`from cpcsam.client import SegmentationClient`.
"""

from __future__ import annotations

from importlib import metadata

__all__ = ["__version__"]

try:
    __version__ = metadata.version("cpcsam")
except metadata.PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"
