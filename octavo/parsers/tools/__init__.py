"""Tool-call formats, one file each. Registered in `machine.TOOLS`."""
