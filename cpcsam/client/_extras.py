"""Optional dependencies, imported on first use with the install command in the error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["extra"]


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import optional packages inside this block.

    Args:
        name: extra of the distribution that installs them.

    Raises:
        ModuleNotFoundError: a package is missing; the message names `pip install 'cpcsam[NAME]'`.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is not installed; pip install 'cpcsam[{name}]'", name=error.name
        ) from error
