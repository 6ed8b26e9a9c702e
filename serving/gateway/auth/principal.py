"""Identity of a caller and its permissions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cpcsam.grpc_errors import ForbiddenError
from serving.gateway.auth.tokens import EDITOR

__all__ = ["EVERYBODY", "Principal"]


@dataclass(frozen=True)
class Principal:
    """Who calls.

    Attributes:
        tenant: whose images and classes it sees.
        may_edit: whether it may change the tenant's classes.
    """

    tenant: str
    may_edit: bool

    def require_edit(self) -> None:
        """Refuse whoever may not change classes.

        Raises:
            ForbiddenError: this caller may not.
        """
        if not self.may_edit:
            raise ForbiddenError.of(
                "token",
                got=f"one of {self.tenant} that may not change classes",
                expected=f"one with the role {EDITOR}",
                fix="ask the operator for such a token",
            )


EVERYBODY: Final = Principal(tenant="everybody", may_edit=True)
"""The caller where no tokens are asked for."""
