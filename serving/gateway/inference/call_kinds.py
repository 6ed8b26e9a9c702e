"""Kinds of the calls to Triton, and those that parts of a request are going to make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from cpcsam.contract import POINT_LABELS, PROMPT_BUCKETS, bucket
from cpcsam.entry_points import CLIP_CROPS, DECODE, MASK_THRESHOLDS, MASKS_RLE
from serving.gateway.inference.triton_requests import InputTensor
from serving.gateway.scheduling.call_times import CallKind

__all__ = ["EVERYTHING", "SEARCH", "decodes", "kind_of"]

COUNTED: Final = (POINT_LABELS.name, CLIP_CROPS.name)
"""Inputs whose second dimension decides how long a call takes."""
EVERYTHING: Final = "everything"
"""Name of decodes of which only masks above thresholds are returned."""
SEARCH: Final = "search"
"""Name of decodes to logits alone, for the search for classes."""


def kind_of(model: str, inputs: Sequence[InputTensor], outputs: Sequence[str]) -> CallKind:
    """Return the kind of a call, by its inputs and outputs.

    Args:
        model: entry point that is called.
        inputs: of the call.
        outputs: names of the requested outputs.
    """
    shapes = {tensor.name: tensor.shape for tensor in inputs}
    counted = next((shapes[name] for name in COUNTED if name in shapes), (0, 0))
    prompts = counted[1]
    if MASK_THRESHOLDS.name in shapes:
        model = EVERYTHING
    elif model == DECODE.name and MASKS_RLE.name not in outputs:
        model = SEARCH
    return CallKind(model, prompts)


def decodes(name: str, prompts: int) -> Counter[CallKind]:
    """Return the calls that decode so many prompts of one image or tile.

    Args:
        name: of their kind.
        prompts: number of them, which are split into chunks.
    """
    most = PROMPT_BUCKETS[-1]
    full, rest = divmod(prompts, most)
    calls = Counter({CallKind(name, most): full})
    if rest:
        calls[CallKind(name, bucket(rest, PROMPT_BUCKETS))] += 1
    return +calls
