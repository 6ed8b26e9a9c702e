"""What the children of the fork server share, kept out of their garbage collections."""

from __future__ import annotations

import gc
import importlib
from typing import Final

MODULES: Final = (
    "tests.support.processes.commands",
    "tests.support.processes.export",
    "tests.support.processes.training",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "onnx",
    "peft.tuners.lora",
    "torchvision",
)

gc.disable()
for _name in MODULES:
    importlib.import_module(_name)
gc.freeze()
gc.enable()
