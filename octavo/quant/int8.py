"""Matrices in 8-bit integers, with a scale for each block of 32, on a CPU (`quantization="int8"`).

Only says who may have it: the native kernels round and multiply (models/packed.py), and their
torch reference has no such weights.
"""

from __future__ import annotations

from octavo.core.facts import Platform
from octavo.quant.none import Plain


class Int8(Plain):
    """Of an unquantised checkpoint, or a GGUF file: blocks of at most 8 bits stay as they are."""

    name = "int8"


def why_not_int8(platform: Platform) -> str | None:
    """None where 8-bit integers are multiplied, otherwise the reason."""
    return None if platform.kind == "cpu" else f"8-bit integers run on a CPU, not on {platform.kind}"
