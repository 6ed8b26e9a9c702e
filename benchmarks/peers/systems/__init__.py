"""The systems that are measured, and the clients of those that are served."""
