"""Decides what every step computes. Pure Python over core: no tensors, no device, no network."""
