"""Zero initialisation: networks whose output is zero before they are trained."""

from __future__ import annotations

from torch import nn

__all__ = ["start_at_zero"]


def start_at_zero(network: nn.Sequential) -> None:
    """Zero-initialise the last layer, in place: the output is zero until it is trained."""
    for parameter in network[-1].parameters():
        nn.init.zeros_(parameter)
