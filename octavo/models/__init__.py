"""Model families: a spec over shared blocks, one family a file (see registry.py)."""
