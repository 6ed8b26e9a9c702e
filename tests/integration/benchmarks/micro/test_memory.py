from __future__ import annotations

import subprocess
import sys

import numpy as np

SCRIPT = "from benchmarks.common.memory import rss_peak_bytes; print(rss_peak_bytes())"


def test_the_peak_is_the_programs_own_and_not_its_parents() -> None:
    held = np.ones(300_000_000, np.uint8)
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, check=True, text=True
    )
    assert 1_000_000 < int(told.stdout) < 100_000_000 < held.sum()
