"""Gradient checkpointing: encoder blocks keep only their inputs and are recomputed in backward."""

from __future__ import annotations

from functools import partial

from torch.utils.checkpoint import checkpoint

from cpcsam.model.sam import CpcSam

__all__ = ["enable_gradient_checkpointing"]


def enable_gradient_checkpointing(model: CpcSam) -> None:
    """Recompute the image encoder's blocks in θ's backward instead of keeping their activations.

    Only each block's `forward` is replaced, so that no parameter changes its name. Weights that
    `functional_call` substitutes are gone when backward recomputes, so unrolling cannot use this.
    """
    for block in model.sam.image_encoder.blocks:
        block.forward = partial(
            checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
        )
