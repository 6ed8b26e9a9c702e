"""Bounds of the gateway's limits."""

from __future__ import annotations

import pytest

from cpcsam.errors import ConfigError
from serving.gateway.limits import Limits


@pytest.mark.parametrize("name", ["max_image_bytes", "max_pixels", "max_prompts", "max_in_flight"])
def test_limits_below_their_minimum_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: got 0, expected at least 1"):
        Limits(**{name: 0})


def test_limits_beyond_the_contracts_pixels_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_pixels"):
        Limits(max_pixels=10**9)
