"""Triton model `postprocess`: low-resolution mask logits to COCO RLE at the original size."""

from serving.backend.postprocess import open_postprocess
from serving.backend.python_backend import triton_model

TritonPythonModel = triton_model(open_postprocess)
