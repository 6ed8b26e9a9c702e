"""TensorRT engines: building, running and timing them."""
