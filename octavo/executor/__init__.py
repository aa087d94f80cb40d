"""Carries plans to the workers and results back."""
