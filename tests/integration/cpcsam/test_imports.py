"""The command names the extra that is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT


@pytest.mark.parametrize("missing", ["PIL", "pycocotools"])
def test_a_missing_extra_prints_its_install_command(missing: str, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"x")
    program = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from cpcsam.cli.main import main\n"
        f"sys.exit(main(['segment', {str(tmp_path / 'x.png')!r}, '--click', '1,2']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 1, done.stderr
    assert "pip install 'cpcsam[client]'" in done.stderr and done.stderr.count("\n") == 1


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
