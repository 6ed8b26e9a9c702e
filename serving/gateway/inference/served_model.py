"""Metadata of the model that a Triton server has loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from tritonclient.grpc.aio import InferenceServerClient

from cpcsam.clip.preprocess import ClipInfo
from cpcsam.contract import CALIBRATES, IMAGE_ENCODER
from cpcsam.entry_points import CLIP, CLIP_INFO, DECODE, DECODE_WITH_MASK, ENCODE, SEGMENT
from cpcsam.images.options import INTENSITY, Intensity
from cpcsam.scale import Scale
from serving.gateway.context import ModelInfo
from serving.gateway.inference.step_times import times_outputs

__all__ = ["ServedModel", "fetch_served_model"]


@dataclass(frozen=True)
class ServedModel:
    """A loaded model.

    Attributes:
        info: its metadata.
        steps: names of the models that each entry point runs, by its name.
        times: outputs of each entry point that hold the times of its steps, by its name.
    """

    info: ModelInfo
    steps: Mapping[str, frozenset[str]]
    times: Mapping[str, tuple[str, ...]]


async def fetch_served_model(client: InferenceServerClient, timeout_s: float) -> ServedModel:
    """Ask Triton for its model's metadata.

    Args:
        client: connection to Triton.
        timeout_s: of each request.

    Raises:
        InferenceServerException: as Triton failed.
    """
    entry_points = (SEGMENT, ENCODE, DECODE)
    server, segment, encoder, mask_prompts, has_clip, *configs = await asyncio.gather(
        client.get_server_metadata(client_timeout=timeout_s),
        client.get_model_metadata(SEGMENT.name, client_timeout=timeout_s),
        client.get_model_config(IMAGE_ENCODER.name, client_timeout=timeout_s),
        client.is_model_ready(DECODE_WITH_MASK.name, client_timeout=timeout_s),
        client.is_model_ready(CLIP.name, client_timeout=timeout_s),
        *(client.get_model_config(spec.name, client_timeout=timeout_s) for spec in entry_points),
    )
    if mask_prompts:
        configs.append(
            await client.get_model_config(DECODE_WITH_MASK.name, client_timeout=timeout_s)
        )
    clip = None
    if has_clip:
        towers = await client.get_model_config(CLIP.name, client_timeout=timeout_s)
        clip = ClipInfo.of_json(towers.config.parameters[CLIP_INFO].string_value)
    reported = {key: value.string_value for key, value in encoder.config.parameters.items()}
    digest = reported["model_digest"]
    stated = reported.get(INTENSITY)
    info = ModelInfo(
        triton_version=server.version,
        model_version=segment.versions[-1] if segment.versions else "",
        model_size=reported["model_size"],
        image_size=encoder.config.input[0].dims[-1],
        model_digest=digest,
        trained_model=reported["trained_model"] or digest,
        mask_prompts=bool(mask_prompts),
        scale=Scale(int(reported["window"]) or None, float(reported["spread"]))
        if "spread" in reported
        else None,
        intensity=Intensity.parse(stated) if stated else Intensity(),
        calibrates=bool(int(reported[CALIBRATES])) if CALIBRATES in reported else None,
        clip=clip,
    )
    return ServedModel(
        info,
        {answer.config.name: _steps(answer.config) for answer in configs},
        {
            answer.config.name: times_outputs([tensor.name for tensor in answer.config.output])
            for answer in (encoder, *configs)
        },
    )


def _steps(config: object) -> frozenset[str]:
    """Return the models of an ensemble, or a single model itself."""
    steps = config.ensemble_scheduling.step  # type: ignore[attr-defined]
    return frozenset(step.model_name for step in steps) or frozenset({config.name})  # type: ignore[attr-defined]
