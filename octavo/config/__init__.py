"""Settings as frozen values. Every field carries its help, flag and limits (see option.py)."""
