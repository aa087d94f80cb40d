"""Turns plans into steps and requests into deltas; in this process or in one of its own."""
