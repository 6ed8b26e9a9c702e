"""Vocabularies are used where torch and scipy are not installed."""

from __future__ import annotations

import subprocess
import sys

from tests.support.paths import ROOT


def test_needs_neither_torch_nor_scipy() -> None:
    program = (
        "import sys\n"
        "for name in ('torch', 'scipy', 'skimage', 'safetensors'): sys.modules[name] = None\n"
        "import cpcsam.automatic.vocabulary, cpcsam.automatic.vocabulary_io, cpcsam.automatic\n"
        "import cpcsam.automatic.prompt_proposals, cpcsam.automatic.mask_merging\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
