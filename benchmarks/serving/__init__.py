"""The served system under load: the real Triton and gateway, on loopback."""
