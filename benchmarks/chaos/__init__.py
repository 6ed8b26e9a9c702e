"""The service while its processes die and while callers are hostile, on loopback only."""
