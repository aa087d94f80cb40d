"""Reasoning formats, one file each. Registered in `machine.REASONING`."""
