"""Triton model `return_embeddings`: passes image_embeddings through to the outputs of `segment`."""

from serving.backend.postprocess import open_return_embeddings
from serving.backend.python_backend import triton_model

TritonPythonModel = triton_model(open_return_embeddings)
