"""Triton model `mask_decoder_with_mask` on the CPU: its graph in ONNX Runtime."""

from serving.ort_model import open_graph
from serving.python_backend import triton_model

TritonPythonModel = triton_model(open_graph)
