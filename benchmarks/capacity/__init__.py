"""Capacity planning: a queueing simulation of the service, fed by measured service times."""
