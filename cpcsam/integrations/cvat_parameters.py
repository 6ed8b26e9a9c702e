"""What the CVAT functions share: the SDK, and the connection from `cvat-cli`'s parameters.

cvat-cli passes parameters as `-p NAME=TYPE:VALUE` with the types str, int, float and bool.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cpcsam.cli.options import connect

if TYPE_CHECKING:
    from cpcsam.client.sync_client import SegmentationClient

__all__ = ["client_of", "cvat_packages"]


def client_of(
    gateway: str, token_file: str, tls: bool, ca: str, timeout_s: float
) -> SegmentationClient:
    """Open a client; it connects at its first call, so that it may be made before a fork.

    Args:
        gateway: HOST:PORT of the gateway.
        token_file: file that holds the bearer token; empty for the variable CPCSAM_TOKEN.
        tls: whether the gateway speaks TLS.
        ca: PEM file of trusted certificates; empty trusts those of the system. Implies tls.
        timeout_s: time limit of a call in seconds, retries included.

    Raises:
        ConfigError: the token or the certificates cannot be read.
    """
    return connect(
        argparse.Namespace(
            address=gateway,
            token_file=Path(token_file) if token_file else None,
            tls=tls,
            ca=Path(ca) if ca else None,
            tls_name=None,
            timeout=timeout_s,
        )
    )


@contextmanager
def cvat_packages() -> Iterator[None]:
    """Import cvat-sdk inside this block.

    Raises:
        ModuleNotFoundError: it is missing; the message names the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is not installed; pip install 'cvat-sdk[masks]' cvat-cli",
            name=error.name,
        ) from error
