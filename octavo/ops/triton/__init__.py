"""Kernels for NVIDIA GPUs. Nothing outside a CUDA start imports this package."""
