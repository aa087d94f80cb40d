"""Uploaded files: /v1/files and the private folder behind it."""
