"""Messages of calls to Triton."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, service_pb2
from tritonclient.utils import np_to_triton_dtype

from serving.gateway.inference.triton_requests import bytes_input, infer_input, message

ARRAYS = {
    "coords": np.arange(24, dtype=np.float32).reshape(1, 3, 4, 2),
    "half": np.linspace(0, 1, 6, dtype=np.float16).reshape(1, 6),
    "turned": np.arange(6, dtype=np.int32).reshape(2, 3).T,
    "pixels": np.full((1, 3, 5, 5), 200, np.uint8),
    "nothing": np.zeros((1, 0, 2), np.float64),
}


def of_tritonclient(name: str, array: NDArray[np.generic]) -> InferInput:
    tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor


@pytest.mark.parametrize("size", [0, 5, 127, 128, 20_000, 3_000_000])
def test_message_is_what_tritonclient_sends(size: int) -> None:
    file = bytes(range(256)) * (size // 256) + bytes(size % 256)
    inputs = [bytes_input("file", file), *(infer_input(*item) for item in ARRAYS.items())]
    theirs = [
        of_tritonclient("file", np.array([[file]], np.object_)),
        *(of_tritonclient(*item) for item in ARRAYS.items()),
    ]
    expected = service_pb2.ModelInferRequest(
        model_name="segment",
        id="r1",
        inputs=[tensor._get_tensor() for tensor in theirs],
        raw_input_contents=[tensor._get_content() for tensor in theirs],
        outputs=[service_pb2.ModelInferRequest.InferRequestedOutputTensor(name="scores")],
    )
    found = message("segment", "r1", inputs, ("scores",))
    assert service_pb2.ModelInferRequest.FromString(found) == expected


def test_infer_input_copies_nothing_of_an_array_in_order() -> None:
    array = np.zeros((1, 3, 64, 64), np.float32)
    (piece,) = infer_input("image_embeddings", array).pieces
    assert np.shares_memory(np.frombuffer(piece, np.uint8), array)
