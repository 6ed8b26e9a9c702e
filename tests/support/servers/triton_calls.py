"""Calls to Triton's entry points, for tests."""

from __future__ import annotations

import io
from collections.abc import Sequence
from time import monotonic, sleep

import numpy as np
from PIL import Image
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import np_to_triton_dtype

Arrays = dict[str, np.ndarray]
QUIET_S = 0.6
"""Less than the period of probes."""
PATIENCE_S = 120.0


def wait_until_counted(client: InferenceServerClient) -> None:
    """Wait until Triton is quiet: it counts a request just after its response."""
    deadline = monotonic() + PATIENCE_S
    last, since = b"", monotonic()
    while True:
        read = monotonic()
        now = client.get_inference_statistics().SerializeToString()
        if now != last:
            assert read < deadline, "somebody calls Triton all the time"
            last, since = now, monotonic()
        elif read > since + QUIET_S:
            return
        sleep(0.1)


def noise_png(height: int, width: int, seed: int = 0) -> bytes:
    """A PNG of coarse noise, so that resizing leaves something of it."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def clicks(points: Sequence[Sequence[Sequence[float]]]) -> Arrays:
    """Foreground clicks, (P, N, 2), as the inputs of one image."""
    coords = np.array(points, np.float32)[None]
    return {"point_coords": coords, "point_labels": np.ones(coords.shape[:-1], np.int32)}


def segment_inputs(image: bytes, points: Sequence[Sequence[Sequence[float]]]) -> Arrays:
    """Inputs of `segment` for one image with clicks, asking for the single mask."""
    return {
        "image_bytes": np.array([[image]], object),
        "mask_selection": np.zeros((1, 1), np.int32),
        **clicks(points),
    }


def infer(
    client: InferenceServerClient, model: str, inputs: Arrays, outputs: Sequence[str]
) -> Arrays:
    """Call a model and return the outputs that were asked for."""
    tensors = []
    for name, array in inputs.items():
        tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    wanted = [InferRequestedOutput(name) for name in outputs]
    result = client.infer(model, tensors, outputs=wanted, client_timeout=120)
    return {name: result.as_numpy(name) for name in outputs}
