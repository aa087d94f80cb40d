"""Kernels in CUDA C++ for Hopper, compiled at run time (NVRTC): products whose tiles Triton cannot shape."""
