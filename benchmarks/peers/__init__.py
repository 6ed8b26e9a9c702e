"""The service beside its peers: official SAM in process, LitServe, ONNX Runtime, Triton alone."""
