"""Version 1 of the gRPC API: messages and stubs generated from `segmentation.proto`."""
