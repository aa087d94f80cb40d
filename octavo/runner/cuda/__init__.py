"""The runner on an NVIDIA GPU: slots on the device, captured graphs, nothing read back within a step."""
