"""Triton model `scale_prompts`: point_coords from the original image to the encoder's frame."""

from serving.backend.preprocess import open_scale_prompts
from serving.backend.python_backend import triton_model

TritonPythonModel = triton_model(open_scale_prompts)
