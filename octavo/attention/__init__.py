"""Attention backends, one a file, and the choice between them."""
