"""Root-mean-square norm: a program a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.ops.norm import rms_norm
from octavo.ops.triton.launch import NOTHING, ahead_of, ask_ahead, early, start_next, wait

_WIDEST = 1 << 15  # a row is held in registers


@triton.jit(do_not_specialize=["ahead_rows"])
def norm_kernel(
    x, gain, y, ahead, ahead_rows, ahead_step, d, eps, LINES: tl.constexpr, EACH: tl.constexpr,
    BLOCK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """y [n, d] = norm(x) * gain."""
    start_next(EARLY)
    ask_ahead(ahead, ahead_rows, ahead_step, tl.program_id(0), LINES, EACH, EARLY)
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


def norm_before(x: Tensor, gain: Tensor, eps: float, weight: Tensor) -> Tensor:
    """The norm, with the weights [n_out, d] of the product that takes its outcome on their way."""
    return normed(x, gain, eps, weight) if _fits(x, gain, eps) else rms_norm(x, gain, eps)


@rms_norm.kernel("cuda", when=_fits, invariant=True)
def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return normed(x, weight, eps)


def normed(x: Tensor, weight: Tensor, eps: float, before: Tensor | None = None) -> Tensor:
    """`before` [n_out, d]: the matrix that is multiplied with the outcome next."""
    y, d = torch.empty_like(x), x.shape[-1]
    block, first, n = triton.next_power_of_2(d), early(x), x.numel() // d
    ahead = NOTHING if before is None else ahead_of(before, n)
    norm_kernel[(n,)](
        x, weight, y, ahead.weight, ahead.rows, ahead.step, d, eps, LINES=ahead.LINES, EACH=ahead.EACH,
        BLOCK=block, EARLY=first, num_warps=row_warps(block), launch_pdl=first,
    )  # fmt: skip
    return y
