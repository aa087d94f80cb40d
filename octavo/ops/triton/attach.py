"""Importing this attaches every kernel to its Op."""

from __future__ import annotations

from octavo.ops.cuda import matmul as hopper
from octavo.ops.matmul import head_logits, linear, project
from octavo.ops.triton import activation, enter, matmul, norm, quant, rope

__all__ = ["activation", "enter", "matmul", "norm", "quant", "rope"]

# after those of the modules above, so tried before them
linear.kernel("cuda", when=hopper.takes)(hopper.run)
project.kernel("cuda", when=hopper.takes)(hopper.run)
head_logits.kernel("cuda", when=hopper.takes_head)(hopper.head_logits)
