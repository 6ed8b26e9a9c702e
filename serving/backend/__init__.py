"""The steps that run inside Triton's Python backend; they import neither grpc nor torch."""
