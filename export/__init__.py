"""Export: merge, ONNX graphs, TensorRT engines and the Triton model repository."""
