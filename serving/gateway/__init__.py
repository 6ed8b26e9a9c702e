"""Gateway: typed gRPC API in front of Triton."""
