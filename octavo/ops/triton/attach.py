"""Importing this attaches every kernel to its Op."""

from __future__ import annotations

from octavo.ops.triton import activation, enter, matmul, norm, quant, rope

__all__ = ["activation", "enter", "matmul", "norm", "quant", "rope"]
