"""Sampling on a GPU: what octavo/sampling does in numpy, on the device and without waiting for it."""
