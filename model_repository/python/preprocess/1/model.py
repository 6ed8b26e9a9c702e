"""Triton model `preprocess`: image file to the encoder's frame, with both sizes."""

from serving.backend.preprocess import open_preprocess
from serving.backend.python_backend import triton_model

TritonPythonModel = triton_model(open_preprocess)
