"""Triton kernels that attach to ops. Nothing imports this package where there is no GPU."""
