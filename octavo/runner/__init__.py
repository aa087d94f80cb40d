"""A worker: everything that owns device memory."""
