"""Parts shared by the small benchmarks of time and memory."""
