"""The gateway: the typed gRPC API in front of Triton."""
