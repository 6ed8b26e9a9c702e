from __future__ import annotations

import math
import re

import pytest

from cpcsam.checks import require_range
from cpcsam.errors import ConfigError
from training.data.batches import BatchConfig


def test_require_range_accepts_values_in_the_range() -> None:
    require_range("x", 0, 0)
    require_range("x", 1, 0, 1)
    require_range("x", 0.5, 0, 1, above=True, below=True)


@pytest.mark.parametrize(
    ("value", "high", "ends", "expected"),
    [
        (-1, math.inf, {}, "0 or more"),
        (0, math.inf, {"above": True}, "above 0"),
        (1.5, 1, {}, "from 0 to 1"),
        (1, 1, {"below": True}, "from 0 to below 1"),
        (math.nan, 1, {}, "from 0 to 1"),
    ],
)
def test_require_range_rejects_values_outside(
    value: float, high: float, ends: dict[str, bool], expected: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)):
        require_range("x", value, 0, high, **ends)


@pytest.mark.parametrize("name", ["images", "entities", "groups", "min_area"])
def test_config_of_a_batch_without_prompts_is_rejected(name: str) -> None:
    with pytest.raises(ConfigError, match=f"batch.{name}"):
        BatchConfig(**{name: 0})


def test_config_of_a_batch_without_annotators_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"batch\.styles"):
        BatchConfig(styles=())
