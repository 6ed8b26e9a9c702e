from __future__ import annotations

import pytest

from serving.http.label_studio import known_images
from serving.http.label_studio.known_images import KnownImages


def test_known_images_forget_the_least_recently_used_and_what_is_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr(known_images, "monotonic", lambda: now[0])
    known = KnownImages(2, 60)
    first, second, third = (KnownImages.key("token", name) for name in "abc")
    known.put(first, "1")
    known.put(second, "2")
    assert known.get(first) == "1"
    known.put(third, "3")
    assert [known.get(key) for key in (first, second, third)] == ["1", None, "3"]
    now[0] += 60.1
    assert known.get(first) is None


def test_key_differs_by_caller_and_by_reference() -> None:
    pairs = [("t", "a"), (None, "a"), ("t", "b"), ("", "ta")]
    assert len({KnownImages.key(*pair) for pair in pairs}) == 4
