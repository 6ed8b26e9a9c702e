"""Versions of Triton whose calls may be cancelled."""

from __future__ import annotations

import pytest

from serving.gateway.inference.triton_client import is_cancellable


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ("2.51.0", False),
        ("2.57.9", False),
        ("2.58.0", True),
        ("2.74.0", True),
        ("3.0", True),
        ("", False),
        ("x.y", False),
    ],
)
def test_is_cancellable_depends_on_the_version(version: str, safe: bool) -> None:
    assert is_cancellable(version) is safe
