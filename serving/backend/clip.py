"""Model `clip`: texts and resized crops to embeddings, by CLIP's exported towers on the CPU."""

from __future__ import annotations

import os

import numpy as np

from cpcsam.clip.onnx_towers import OnnxTowers
from cpcsam.clip.preprocess import ClipInfo
from cpcsam.entry_points import CLIP_CROPS, CLIP_EMBEDDINGS, CLIP_INFO, CLIP_TEXTS
from cpcsam.errors import ContractError
from serving.backend.step import Execute, Request, Settings, Tensors, each

__all__ = ["embed", "open_clip_towers"]


def open_clip_towers(settings: Settings) -> Execute:
    """Open the towers of the version's folder, and compare them with their golden embeddings.

    Raises:
        ArtifactError: a file is missing or unreadable.
        ConfigError: a parameter is missing.
        ServingError: embeddings differ from those that torch gave at the export.
    """
    info = ClipInfo.of_json(settings.parameters.get(CLIP_INFO, ""))
    threads = settings.integer("intra_op_threads") or len(os.sched_getaffinity(0))
    towers = OnnxTowers(settings.directory, info, threads)
    towers.check_golden()
    return each(lambda request: embed(request, towers))


def embed(request: Request, towers: OnnxTowers) -> Tensors:
    """Embed the texts of a request, or its crops.

    Args:
        request: texts (1, N) or crops (1, N, C, C, 3) uint8, C being the image tower's side.
        towers: that embed them.

    Returns:
        clip_embeddings (1, N, D) float32 of unit length.

    Raises:
        ContractError: both or none of them, or crops of another side.
    """
    texts, crops = (request.tensors.get(tensor.name) for tensor in (CLIP_TEXTS, CLIP_CROPS))
    if (texts is None) == (crops is None):
        raise ContractError.of(
            "texts and crops",
            got="none" if texts is None else "both",
            expected="one of them",
            fix="call the model for each of them",
        )
    if texts is not None:
        embeddings = towers.embed_texts([text.decode(errors="replace") for text in texts[0]])
    else:
        assert crops is not None
        side = towers.info.preprocess.image_size
        if crops.shape[2:] != (side, side, 3):
            raise ContractError.of(
                "crops",
                got=f"shape {crops.shape}",
                expected=f"(1, N, {side}, {side}, 3)",
                fix="resize them as the model's parameters tell",
            )
        embeddings = towers.embed_crops(crops[0])
    return {CLIP_EMBEDDINGS.name: np.asarray(embeddings[None], np.float32)}
