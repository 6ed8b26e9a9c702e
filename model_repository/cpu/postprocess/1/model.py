"""Triton model `postprocess`: low_res_masks to run lengths in the original image."""

from serving.backend.postprocess import open_postprocess
from serving.backend.python_backend import triton_model

TritonPythonModel = triton_model(open_postprocess)
