"""The native kernel library: C++ sources, how they are compiled, and a binding by ctypes."""
