"""Triton model `mask_decoder` on the CPU: its graph of the tensor contract in ONNX Runtime."""

from serving.ort_model import open_graph
from serving.python_backend import triton_model

TritonPythonModel = triton_model(open_graph)
