"""Networks that change nothing before they are trained."""

from __future__ import annotations

from torch import nn

__all__ = ["start_at_zero"]


def start_at_zero(network: nn.Sequential) -> None:
    """Set the last layer to zero, in place: its output is zero until it learns."""
    for parameter in network[-1].parameters():
        nn.init.zeros_(parameter)
