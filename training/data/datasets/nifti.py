"""NIfTI volumes, read with nibabel, as Debian's mricron-data has them."""

from __future__ import annotations

import zlib
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from cpcsam.errors import DataError

__all__ = ["read_nifti"]


def read_nifti(path: Path) -> NDArray[np.generic]:
    """Read a single-file volume, compressed or not.

    Returns:
        (X, Y, Z) of the file's own type; float32 if its header scales the values.

    Raises:
        DataError: the file is missing, cut short or no NIfTI volume of three dimensions.
    """
    try:
        image = nibabel.load(path, mmap=False)
        if not isinstance(image, nibabel.Nifti1Image):
            raise _unusable(path, "another format")
        proxy = image.dataobj
        values: NDArray[np.generic] = proxy.get_unscaled()
    except FileNotFoundError as error:
        raise _unusable(path, "no such file") from error
    except (ImageFileError, HeaderDataError) as error:  # also of files cut short in the header
        raise _unusable(path, "an unreadable file or another format") from error
    except (OSError, EOFError, zlib.error) as error:
        raise _unusable(path, f"an unreadable file ({error})") from error
    if values.ndim < 3 or min(values.shape) < 1 or max(values.shape[3:], default=1) > 1:
        raise _unusable(path, f"dimensions {values.shape}")
    if values.dtype.kind not in "iuf":
        raise _unusable(path, f"data type {values.dtype}")
    values = values.reshape(values.shape[:3], order="F")
    if proxy.slope != 1 or proxy.inter != 0:
        return values * np.float32(proxy.slope) + np.float32(proxy.inter)
    return values


def _unusable(path: Path, got: str) -> Exception:
    return DataError.of(
        str(path), got=got, expected="a NIfTI volume", fix="restore it from the package"
    )
