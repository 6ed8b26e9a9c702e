"""Times of the steps in Triton, and how the time of a call divides among the phases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from tritonclient.grpc import InferResult

from cpcsam.contract import IMAGE_ENCODER
from cpcsam.entry_points import (
    DECODER,
    EMBEDDING_STORE,
    POSTPROCESS,
    PREPROCESS,
    STEP_TIMES,
    times_output,
)
from serving.gateway import phases

__all__ = ["call_phases", "times_from_result", "times_outputs"]

STEPS: Final = (
    PREPROCESS.name,
    IMAGE_ENCODER.name,
    EMBEDDING_STORE.name,
    DECODER.name,
    POSTPROCESS.name,
)
OUTPUTS: Final = {
    **{times_output(step).name: step for step in STEPS},
    STEP_TIMES.name: IMAGE_ENCODER.name,  # the only step that is called by itself
}
"""Step behind each output that holds times."""


def times_outputs(outputs: Sequence[str]) -> tuple[str, ...]:
    """Return those outputs of an entry point that are times of steps."""
    return tuple(name for name in outputs if name in OUTPUTS)


def times_from_result(result: InferResult, outputs: Sequence[str]) -> dict[str, list[float]]:
    """Return the times of each step of a call, by its name; see STEP_TIMES.

    Args:
        result: of the call.
        outputs: that were requested and are times of steps.
    """
    arrays = {OUTPUTS[name]: result.as_numpy(name) for name in outputs}
    return {step: array[0].tolist() for step, array in arrays.items() if array is not None}


def call_phases(
    model: str, times: Mapping[str, Sequence[float]], seconds: float
) -> dict[str, float]:
    """Divide the time of a call among the phases.

    Engines do not tell their times, so on the GPU an engine's time is that between its neighbours,
    its wait for a batch included, and for a call that ends with the image encoder the remainder.

    Args:
        model: entry point that was called.
        times: of its steps.
        seconds: of the call. What the steps do not account for is the phase `queue`.

    Returns:
        Seconds by phase, in all those of the call.
    """
    spans = {step: marks[-1] - marks[0] for step, marks in times.items()}
    begins = {step: marks[0] for step, marks in times.items()}
    spent: dict[str, float] = {}
    if PREPROCESS.name in times:
        spent[phases.DECODE] = spans[PREPROCESS.name]
    if IMAGE_ENCODER.name in times:
        spent[phases.ENCODE] = spans[IMAGE_ENCODER.name]
    elif PREPROCESS.name in times and EMBEDDING_STORE.name in times:
        spent[phases.ENCODE] = begins[EMBEDDING_STORE.name] - times[PREPROCESS.name][-1]
    if DECODER.name in times:
        began, decoded, ended = times[DECODER.name]
        spent |= {phases.DECODE_MASKS: decoded - began, phases.POSTPROCESS: ended - decoded}
    elif POSTPROCESS.name in times:
        began = begins.get(EMBEDDING_STORE.name, begins[POSTPROCESS.name])
        spent[phases.DECODE_MASKS] = begins[POSTPROCESS.name] - began
        spent[phases.POSTPROCESS] = spans[POSTPROCESS.name]
    spent = {phase: max(value, 0.0) for phase, value in spent.items()}
    rest = max(seconds - sum(spent.values()), 0.0)
    if phases.ENCODE in spent or phases.POSTPROCESS in spent:
        return spent | {phases.QUEUE: rest}
    is_encode = spent or model == IMAGE_ENCODER.name
    return spent | {phases.ENCODE if is_encode else phases.TRITON: rest}
