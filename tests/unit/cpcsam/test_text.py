"""Text from others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cpcsam.text import printable


def test_printable_escapes_control_characters_and_surrogates() -> None:
    assert printable("a\x1b[0m\n\x00\u2028\udcff é", 100) == r"a\x1b[0m\n\x00\u2028\udcff é"
    assert printable("x" * 11, 10) == "x" * 7 + "..."


@given(st.text(st.characters(), max_size=30))
def test_printable_text_can_be_encoded(text: str) -> None:
    result = printable(text, 20)
    assert result.isprintable() and len(result.encode()) <= 10 * 20
