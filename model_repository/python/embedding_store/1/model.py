"""Triton model `embedding_store`: image embeddings that later calls name by a key."""

from serving.backend.embedding_store import open_embedding_store
from serving.backend.python_backend import triton_model

TritonPythonModel = triton_model(open_embedding_store)
