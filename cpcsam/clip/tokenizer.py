"""CLIP's byte-pair encoding (BPE) in plain Python and numpy, for servers without torch."""

from __future__ import annotations

import gzip
import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.errors import ArtifactError

__all__ = ["CONTEXT_LENGTH", "VOCABULARY_SIZE", "Tokenizer"]

CONTEXT_LENGTH: Final = 77
VOCABULARY_SIZE: Final = 49408
MERGES: Final = VOCABULARY_SIZE - 2 * 256 - 2
"""Besides merges the vocabulary has each byte twice, also as a word's end, and start and end."""
END_OF_WORD: Final = "</w>"
CONTRACTION: Final = re.compile("'(?:s|t|re|ve|m|ll|d)", re.IGNORECASE)
WORD: Final = re.compile("L+|N|O+")
STRAIGHT_QUOTES: Final = {**dict.fromkeys("\u02bc‘’‚‛", "'"), **dict.fromkeys("“”„‟", '"')}
LIGATURES: Final = (
    0x132,
    0x133,
    *range(0x1C4, 0x1CD),
    *range(0x1F1, 0x1F4),
    *range(0xFB00, 0xFB07),
)
"""Characters of several Latin letters, which are copied from typeset pages."""
OTHER_WIDTHS: Final = range(0xFF01, 0xFFF0)
"""Full-width Latin letters and half-width kana, for example."""
INVISIBLE: Final = (*range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFD))
"""Marks of byte order and annotation, which are removed as control characters are."""


class Tokenizer:
    """CLIP's tokenizer: lower case, BPE of UTF-8 bytes; equals open_clip's `SimpleTokenizer`.

    open_clip cleans texts by ftfy first. Here as there quotes become straight, ligatures and
    characters of other widths become plain ones, invisible marks are removed, and NFC is the normal
    form; only texts that were decoded wrongly are not repaired. The names of CLIP's special tokens
    are text like any other.

    Args:
        path: CLIP's `bpe_simple_vocab_16e6.txt.gz`, which open_clip's package contains.
        context_length: tokens of a text, start and end included; longer texts are cut.

    Raises:
        ArtifactError: no such file, or another one.
    """

    def __init__(self, path: Path, context_length: int = CONTEXT_LENGTH) -> None:
        self._context_length = context_length
        symbols = _byte_symbols()
        merges = _read_merges(path)
        vocabulary = [*symbols, *(symbol + END_OF_WORD for symbol in symbols)]
        vocabulary += [first + second for first, second in merges]
        self._ids = {symbol: index for index, symbol in enumerate(vocabulary)}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        # In the order of bytes, while the vocabulary lists printable ones first.
        self._symbols = dict(zip(_byte_order(), symbols, strict=True))
        self._merge = lru_cache(4096)(self._merge_uncached)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Encode texts.

        Returns:
            (n, context_length) int64: start, the text's tokens, end, zeros.
        """
        tokens = np.zeros((len(texts), self._context_length), np.int64)
        start, end = VOCABULARY_SIZE - 2, VOCABULARY_SIZE - 1
        for row, text in zip(tokens, texts, strict=True):
            encoded = [start, *self._encode(text)][: self._context_length - 1]
            row[: len(encoded) + 1] = [*encoded, end]
        return tokens

    def _encode(self, text: str) -> Iterator[int]:
        for word in _words(_cleaned(text)):
            # As UTF-8 has no surrogates, they become question marks.
            yield from self._merge(
                "".join(self._symbols[byte] for byte in word.encode(errors="replace"))
            )

    def _merge_uncached(self, word: str) -> tuple[int, ...]:
        """Merge a word's symbols, the pair of the lowest rank first."""
        parts = [*word[:-1], word[-1] + END_OF_WORD]
        while len(parts) > 1:
            pairs = list(zip(parts, parts[1:], strict=False))
            best = min(pairs, key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            merged: list[str] = []
            for part in parts:
                if merged and (merged[-1], part) == best:
                    merged[-1] += part
                else:
                    merged.append(part)
            parts = merged
        return tuple(self._ids[part] for part in parts)


def _cleaned(text: str) -> str:
    """Clean a text as open_clip and ftfy do; see `Tokenizer`."""
    # ftfy takes a text with this sign for HTML, whose entities are escaped on purpose.
    text = text if "<" in text else html.unescape(text)
    text = text.translate(_replacements())
    text = "".join(c for c in text if c in "\t\n\f\r" or unicodedata.category(c) != "Cc")
    text = html.unescape(html.unescape(unicodedata.normalize("NFC", text)))
    return " ".join(text.split()).lower()


@cache
def _replacements() -> dict[int, str]:
    """Return the characters that ftfy replaces, by their code points."""
    plain = {code: unicodedata.normalize("NFKC", chr(code)) for code in (*LIGATURES, *OTHER_WIDTHS)}
    plain |= str.maketrans({**STRAIGHT_QUOTES, "\u0149": "'n", "ﬅ": "ſt"})
    return plain | dict.fromkeys(INVISIBLE, "")


def _words(text: str) -> Iterator[str]:
    """Split into contractions' ends, runs of letters, single digits, and runs of other signs."""
    kinds = "".join(_kind(character) for character in text)
    position = 0
    while position < len(text):
        match = CONTRACTION.match(text, position) or WORD.match(kinds, position)
        if match is None:
            position += 1
            continue
        yield text[position : match.end()]
        position = match.end()


def _kind(character: str) -> str:
    category = unicodedata.category(character)[0]
    if category in "LN":
        return category
    return " " if character.isspace() else "O"


def _byte_order() -> list[int]:
    """Return all bytes, those first that Latin-1 prints."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    return printable + [byte for byte in range(256) if byte not in printable]


def _byte_symbols() -> list[str]:
    """Return the printable character that stands for each byte of `_byte_order`."""
    order = _byte_order()
    printable = 256 - 68
    return [chr(byte) for byte in order[:printable]] + [chr(256 + index) for index in range(68)]


def _read_merges(path: Path) -> list[tuple[str, str]]:
    try:
        lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : MERGES + 1]
        merges = [(first, second) for first, second in (line.split() for line in lines)]
    except (OSError, EOFError, ValueError) as error:
        raise ArtifactError.of(
            str(path),
            got=f"an unreadable file ({error})",
            expected="CLIP's bpe_simple_vocab_16e6.txt.gz",
            fix="export the towers again",
        ) from error
    if len(merges) != MERGES:
        raise ArtifactError.of(
            str(path),
            got=f"{len(merges)} merges",
            expected=f"{MERGES}, as CLIP's vocabulary has",
            fix="export the towers again",
        )
    return merges
