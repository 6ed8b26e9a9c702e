"""Text from others, made fit for messages and logs."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str, max_length: int) -> str:
    r"""Escape what is not printable and cut what is too long.

    Files and requests may contain terminal escapes, line breaks, and code points that UTF-8 cannot
    express.

    Args:
        text: anything.
        max_length: characters before they are escaped.

    Returns:
        One line in which control characters, separators other than the space, and surrogates are
        escaped as in Python: a line break is `\n`.
    """
    short = text if len(text) <= max_length else f"{text[: max_length - 3]}..."
    if short.isprintable():
        return short
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in short)
