"""Triton model `image_encoder` on the CPU: its ONNX graph in ONNX Runtime."""

from serving.backend.onnx_model import open_graph
from serving.backend.python_backend import triton_model

TritonPythonModel = triton_model(open_graph)
