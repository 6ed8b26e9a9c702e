"""Gradient checkpointing: encoder blocks keep their inputs alone and are recomputed in backward."""

from __future__ import annotations

from functools import partial

from torch.utils.checkpoint import checkpoint

from cpcsam.model.sam import CpcSam

__all__ = ["recompute_blocks"]


def recompute_blocks(model: CpcSam) -> None:
    """Let θ's backward run the image encoder's blocks once more instead of keeping what they made.

    Only each block's `forward` is replaced, so that no parameter changes its name. Weights that
    `functional_call` puts in are gone when backward recomputes, so unrolling cannot use this.
    """
    for block in model.sam.image_encoder.blocks:
        block.forward = partial(
            checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
        )
