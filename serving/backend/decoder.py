"""Model `decoder`: all steps of a decode in one process, over graphs in ONNX Runtime.

So an embedding and its logits are never copied from process to process.
"""

from __future__ import annotations

import os
from time import monotonic

from cpcsam.contract import (
    CALIBRATE,
    CALIBRATES,
    IMAGE_EMBEDDINGS,
    IMAGE_ENCODER,
    MASK_DECODER,
    MASK_DECODER_WITH_MASK,
    MASK_INPUT,
    POINT_COORDS,
    PROMPT_ENCODER,
    PROMPT_ENCODER_WITH_MASK,
    graphs_of,
)
from cpcsam.entry_points import CHOSEN_CALIBRATE, SCALED_POINT_COORDS, STORED_EMBEDDINGS
from serving.backend.embedding_store import EmbeddingStore
from serving.backend.onnx_model import Run, load_graph
from serving.backend.postprocess import postprocess
from serving.backend.preprocess import scale_prompts
from serving.backend.step import Execute, Request, Settings, Tensors, each

__all__ = ["open_decoder"]

Stages = tuple[Run, Run]
"""Prompt encoder and mask decoder."""


def open_decoder(settings: Settings) -> Execute:
    """Open `decoder` with the graphs of its folder, which are named as in the contract.

    Requests of a batch run side by side, each alone, so that none depends on its company.

    Args:
        settings: parameters image_size, max_pixels, intra_op_threads (0: one a core),
            embedding_store_bytes and, of models that calibrate prompts, calibrates; provider as of
            `load_graph`.

    Raises:
        ArtifactError: a graph is missing or broken.
        ConfigError: a parameter is missing or wrong, or the provider cannot be used here.
        ServingError: a graph is not the contract's.
    """
    image_size, max_pixels = settings.integer("image_size"), settings.integer("max_pixels")
    store = EmbeddingStore.of_settings(settings)
    # Repositories published before the parameter have graphs without a switch.
    calibrates = CALIBRATES in settings.parameters and bool(settings.integer(CALIBRATES))
    graphs = {
        graph.name: load_graph(settings, graph, settings.directory / f"{graph.name}.onnx")
        for graph in graphs_of(calibrates)
        if graph is not IMAGE_ENCODER
    }
    plain = graphs[PROMPT_ENCODER.name], graphs[MASK_DECODER.name]
    with_mask = graphs[PROMPT_ENCODER_WITH_MASK.name], graphs[MASK_DECODER_WITH_MASK.name]

    def decode(request: Request) -> Tensors:
        stages = with_mask if MASK_INPUT.name in request.tensors else plain
        return _decode(request, store, stages, image_size, max_pixels)

    return each(decode, threads=len(os.sched_getaffinity(0)))


def _decode(
    request: Request, store: EmbeddingStore, stages: Stages, image_size: int, max_pixels: int
) -> Tensors:
    encode_prompts, decode_masks = stages
    tensors = dict(request.tensors)
    tensors[IMAGE_EMBEDDINGS.name] = embeddings = store.take(request)
    scaling = Request(request.tensors, frozenset({SCALED_POINT_COORDS.name, CHOSEN_CALIBRATE.name}))
    scaled = scale_prompts(scaling, image_size)
    tensors[CALIBRATE.name] = scaled[CHOSEN_CALIBRATE.name]
    encoded = encode_prompts({**tensors, POINT_COORDS.name: scaled[SCALED_POINT_COORDS.name]})
    masks = decode_masks({**tensors, **encoded})
    request.marks.append(monotonic())
    decoded = Request({**tensors, **encoded, **masks}, request.outputs)
    outputs = postprocess(decoded, image_size, max_pixels)
    if STORED_EMBEDDINGS.name in request.outputs:
        outputs = {**outputs, STORED_EMBEDDINGS.name: embeddings}
    return outputs
