"""TensorRT engines: building, running in a process or container of their own, profiles."""
