"""Damaged files end in an image or a CpcSamError, within bounded memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.support.image_files import files_of_modes, oriented_files, tiff
from tests.support.paths import ROOT

FILES = 120
MAX_GROWTH = 1 << 30
CHILD = """
import resource, sys
from pathlib import Path
from cpcsam.errors import CpcSamError
from cpcsam.images.masks import read_labels
from cpcsam.images.reading import decode_image, read_header
import tifffile  # noqa: F401  imported before memory is measured
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {growth}, used + {growth}))
images = refusals = 0
for path in sorted(Path(sys.argv[1]).iterdir()):
    data = path.read_bytes()
    for read in (read_header, decode_image, read_labels):
        try:
            read(data)
            images += 1
        except CpcSamError as error:
            assert "MemoryError" not in repr(error.__cause__), path
            refusals += 1
print(images, refusals)
"""


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """A file with flipped bytes, cut off, or with a piece of its own in another place."""
    content = bytearray(data)
    kind = rng.integers(4)
    if kind == 0:
        return bytes(content[: rng.integers(len(content))])
    # Headers decide more than pixels.
    reach = len(content) if kind == 1 else min(len(content), 200)
    for _ in range(rng.integers(1, 9)):
        place = rng.integers(reach)
        content[place] = rng.integers(256)
    if kind == 3:
        start, target = rng.integers(len(content), size=2)
        piece = content[start : start + 12]
        content[target : target + len(piece)] = piece
    return bytes(content)


def test_damaged_files_end_in_an_image_or_a_refusal(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (24, 31, 3), dtype=np.uint8)
    sources = [case.data for case in (*files_of_modes(rng, 24, 31), *oriented_files(picture, 6))]
    stack = np.zeros((2, 3, 24, 31), np.uint16)
    sources += [tiff(stack, imagej=True, metadata={"axes": "ZCYX"})] * 4
    sources += [tiff(stack, ome=True, metadata={"axes": "ZCYX"})] * 4
    for index in range(FILES):
        data = mutated(sources[index % len(sources)], rng)
        (tmp_path / f"{index:03}").write_bytes(data)
    code = CHILD.format(growth=MAX_GROWTH)
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    images, refusals = map(int, done.stdout.split())
    assert images + refusals == 3 * FILES
    assert images > FILES / 4 and refusals > FILES / 4
