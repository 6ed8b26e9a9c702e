"""Inference backends: one protocol on numpy arrays, over torch, ONNX Runtime or any engine."""
