"""One plain ASGI middleware a file. Each knows its own settings and nothing of its neighbours."""
