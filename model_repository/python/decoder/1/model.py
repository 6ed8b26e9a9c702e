"""Triton model `decoder` on the CPU: prompts to masks, all steps in one process."""

from serving.backend.decoder import open_decoder
from serving.backend.python_backend import triton_model

TritonPythonModel = triton_model(open_decoder)
