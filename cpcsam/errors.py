"""Exception hierarchy of the project; every error that a user can cause is one of these.

CpcSamError
├── ConfigError      a configuration value or command-line option
├── ContractError    a tensor, prompt or image that breaks the tensor contract
├── ArtifactError    a directory or file written by a stage: missing, altered, incompatible
├── DataError        a dataset on disk
├── TrainingError    a run that cannot go on (non-finite loss, nothing to train)
├── ExportError      a conversion that failed or lost accuracy
└── ServingError     Triton, the gateway or a client call
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING

__all__ = [
    "ArtifactError",
    "ConfigError",
    "ContractError",
    "CpcSamError",
    "DataError",
    "ExportError",
    "ServingError",
    "TrainingError",
    "extra",
    "placed",
]

if TYPE_CHECKING:
    from typing import Self


class CpcSamError(Exception):
    """Base class of all errors; messages read *what: got, expected; fix*."""

    @classmethod
    def of(cls, what: str, *, got: object, expected: object, fix: str) -> Self:
        """Build an error with a message of the house form.

        Args:
            what: the field, tensor or file at fault.
            got: the invalid value, in short.
            expected: description of valid values.
            fix: next step for the user, in the imperative.
        """
        return cls(f"{what}: got {got}, expected {expected}; {fix}")


class ConfigError(CpcSamError):
    """A configuration value or command-line option is wrong."""


class ContractError(CpcSamError):
    """A tensor, prompt or image breaks the tensor contract."""


class ArtifactError(CpcSamError):
    """A stage's directory or file is missing, altered or incompatible."""


class DataError(CpcSamError):
    """A dataset on disk cannot be used."""


class TrainingError(CpcSamError):
    """A training run cannot go on."""


class ExportError(CpcSamError):
    """A conversion failed or lost more accuracy than its tolerance."""


class ServingError(CpcSamError):
    """Triton, the gateway or a client call failed."""


@contextmanager
def placed(where: str) -> Iterator[None]:
    """Say where an error of this block is, in front of its message; its other fields are kept."""
    try:
        yield
    except CpcSamError as error:
        here = copy(error)  # the error itself may be that of other requests as well
        here.args = (f"{where}{error}",)
        raise here from error


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
