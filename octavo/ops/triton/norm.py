"""Root-mean-square norm: a program a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.ops.norm import rms_norm
from octavo.ops.triton.launch import early, start_next, wait

_WIDEST = 1 << 15  # a row is held in registers


@triton.jit
def norm_kernel(x, gain, y, d, eps, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    """y [n, d] = norm(x) * gain."""
    start_next(EARLY)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < d
    weight = tl.load(gain + columns, mask=inside, other=0.0).to(tl.float32)
    wait(EARLY)
    value = tl.load(x + row * d + columns, mask=inside, other=0.0).to(tl.float32)
    out = value * tl.rsqrt(tl.sum(value * value, 0) / d + eps) * weight
    tl.store(y + row * d + columns, out.to(y.dtype.element_ty), mask=inside)


def row_warps(block: int) -> int:
    """Warps that hold a row of so many elements, 8 to 16 of them a thread."""
    return min(16, max(1, block // 256))


def _fits(x: Tensor, weight: Tensor, eps: float) -> bool:
    return x.numel() > 0 and x.is_contiguous() and x.shape[-1] <= _WIDEST


@rms_norm.kernel("cuda", when=_fits, invariant=True)
def normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    y, d = torch.empty_like(x), x.shape[-1]
    block, first = triton.next_power_of_2(d), early(x)
    norm_kernel[(x.numel() // d,)](
        x, weight, y, d, eps, BLOCK=block, EARLY=first, num_warps=row_warps(block), launch_pdl=first
    )
    return y
