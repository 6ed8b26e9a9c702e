"""Token file."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpcsam.errors import ConfigError
from serving.gateway.auth.tokens import EDITOR, Token, read_tokens


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.txt"


def test_read_tokens_skips_comments_and_empty_lines(file: Path) -> None:
    file.write_text(f"# callers\n\nlab editor {'0' * 64}  # Ada\n")
    assert read_tokens(file) == {"0" * 64: Token("lab", EDITOR, "0" * 64)}


@pytest.mark.parametrize(
    "line",
    ["a-token-in-plain-text", f"lab owner {'0' * 64}", f"../lab user {'0' * 64}", "lab user 12"],
)
def test_read_tokens_with_an_invalid_line_names_its_number_and_hides_it(
    file: Path, line: str
) -> None:
    file.write_text(f"# callers\n{line}\n")
    with pytest.raises(ConfigError, match="tokens.txt, line 2: got something else") as caught:
        read_tokens(file)
    assert line.split()[0] not in str(caught.value)
