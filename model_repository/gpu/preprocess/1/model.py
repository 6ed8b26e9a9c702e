"""Triton model `preprocess`: image file to the encoder's input, with input_size and original_size."""

from serving.backend.preprocess import open_preprocess
from serving.backend.python_backend import triton_model

TritonPythonModel = triton_model(open_preprocess)
