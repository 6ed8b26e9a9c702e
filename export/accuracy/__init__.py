"""Accuracy gate of exported graphs: parity on random tensors, mask fidelity on real images."""
