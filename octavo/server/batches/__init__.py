"""Batches: many requests in one file, answered behind the live ones. /v1/batches and `octavo run-batch`."""
