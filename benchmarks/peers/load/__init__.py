"""Workloads, and the load generators that send them."""
