"""Benchmarks: JSON out, compared by compare.py."""
