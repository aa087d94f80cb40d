"""Triton kernels, one file for each family. Imported only where there is a GPU (or the interpreter)."""
