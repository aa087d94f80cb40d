"""Logs and metrics, made from events; nothing here changes what the engine does."""
