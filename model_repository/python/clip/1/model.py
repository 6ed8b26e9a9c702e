"""Triton model `clip` on the CPU: texts and crops to embeddings, by CLIP's towers."""

from serving.backend.clip import open_clip_towers
from serving.backend.python_backend import triton_model

TritonPythonModel = triton_model(open_clip_towers)
