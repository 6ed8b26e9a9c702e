"""Errors of the disk that stores vocabularies, reported to callers without the server's paths."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from safetensors import SafetensorError

from cpcsam.artifacts.versions import LockedError
from cpcsam.automatic.vocabulary_io import OtherModelError
from cpcsam.errors import ArtifactError, CpcSamError
from cpcsam.grpc_errors import LimitError, PreconditionError, UnavailableError

__all__ = ["storage_errors", "unusable"]

LOG = logging.getLogger(__name__)
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
CLOSED: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
OS_ERROR: Final = re.compile(r"os error (\d+)")


@contextmanager
def storage_errors() -> Iterator[None]:
    """Convert errors of the disk to errors of the service, and log them; also a decorator.

    Raises:
        LimitError: the disk is full.
        PreconditionError: the folder cannot be written, or its content cannot be used.
        UnavailableError: another error of the disk.
    """
    try:
        yield
    except LockedError:
        raise
    except ArtifactError as error:
        raise unusable(error) from None
    except (OSError, SafetensorError) as error:
        LOG.error("classes cannot be read or stored: %s", error)
        raise _of_disk(error) from None


def unusable(error: ArtifactError) -> CpcSamError:
    """Return the error of a vocabulary that is there, but cannot be used."""
    LOG.error("classes cannot be used: %s", error)
    if not isinstance(error, OtherModelError):
        return PreconditionError.of(
            "classes",
            got="stored ones that cannot be read",
            expected="a complete vocabulary",
            fix="have the operator see the gateway's log",
        )
    return PreconditionError.of(
        "classes",
        got=f"one made with model {error.made_with[:12]}",
        expected=f"one made with model {error.model[:12]}",
        fix="have the operator serve that model again, or delete the classes, and add them again",
    )


def _of_disk(error: OSError | SafetensorError) -> CpcSamError:
    if isinstance(error, OSError):
        number = error.errno or 0
    else:
        found = OS_ERROR.search(str(error))
        number = int(found[1]) if found else 0
    if number in FULL:
        return LimitError.of(
            "classes",
            got="a full disk",
            expected="room for a new version; the old one stays",
            fix="have the operator free some",
        )
    if number in CLOSED:
        return PreconditionError.of(
            "classes",
            got="a folder to which the gateway has no access",
            expected="one that it may read and write",
            fix="have the operator permit it",
        )
    return UnavailableError.of(
        "classes",
        got="an error of the disk",
        expected="a folder that works",
        fix="try again; if it stays, have the operator see the gateway's log",
    )
