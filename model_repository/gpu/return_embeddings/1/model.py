"""Triton model `return_embeddings`: image_embeddings to an output of `segment`."""

from serving.postprocess import open_return_embeddings
from serving.python_backend import triton_model

TritonPythonModel = triton_model(open_return_embeddings)
