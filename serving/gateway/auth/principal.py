"""Identity of a caller and its permissions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cpcsam.grpc_errors import ForbiddenError
from serving.gateway.auth.tokens import EDITOR

__all__ = ["EVERYBODY", "Principal"]


@dataclass(frozen=True)
class Principal:
    """Authenticated caller.

    Attributes:
        tenant: namespace of the images and classes that it sees.
        may_edit: whether it may change the tenant's classes.
    """

    tenant: str
    may_edit: bool

    def require_edit(self) -> None:
        """Require the permission to change classes.

        Raises:
            ForbiddenError: the principal lacks it.
        """
        if not self.may_edit:
            raise ForbiddenError.of(
                "token",
                got=f"a token of {self.tenant} that may not change classes",
                expected=f"a token with the role {EDITOR}",
                fix="request such a token from the operator",
            )


EVERYBODY: Final = Principal(tenant="everybody", may_edit=True)
"""Principal of every caller if the gateway requires no tokens."""
