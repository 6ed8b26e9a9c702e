"""Datasets that the machine has, read whole."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.support.dataset_factory import (
    classes_in,
)
from tests.support.paths import ROOT
from training.data.datasets.instance_folders import read_bbbc038
from training.data.datasets.protocol import open_dataset


def test_the_real_nuclei() -> None:
    found = Path(os.environ.get("BBBC038", ROOT.parent / "shared/data/bbbc038v1"))
    if not found.is_dir():
        pytest.skip(f"no BBBC038v1 at {found}; set BBBC038 to its folder")
    dataset = open_dataset("bbbc038v1", found)
    expected = read_bbbc038(found, found / "val.txt")
    assert dataset.samples("test").names == [sample.name for sample in expected]
    for index in (0, len(expected) - 1):
        assert np.array_equal(dataset.samples("test")[index].instances, expected[index].instances)


def test_the_real_brain() -> None:
    found = Path("/usr/share/mricron")
    if not found.is_dir():
        pytest.skip("mricron-data is not installed; on Debian: apt-get install mricron-data")
    dataset = open_dataset("mricron", found)
    assert len(dataset.classes) == 62 and len(dataset.base) == 42 and len(dataset.target) == 20
    sample = dataset.samples("test", "target")[5]
    assert sample.instances.shape == (217, 181)
    assert set(classes_in(sample)) <= dataset.target
