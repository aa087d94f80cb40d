"""Projections in 8 bits on the GPU.

One row reads the weights alone in 8 bits: the activations keep theirs (matmul.py). Several rows are
rounded to e4m3 with a scale of their own, the norm before them in the same launch, and go through
the 8-bit tensor cores: few with the weights streaming by (matmul_dot.py), many through cuBLAS.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.ops.activation import GATES
from octavo.ops.quant import EIGHT, project_eight
from octavo.ops.triton.launch import activate, early, start_next, wait
from octavo.ops.triton.matmul import Terms, multiply, skinny
from octavo.ops.triton.norm import row_warps

_WIDEST = 1 << 15


@triton.jit
def quantise_kernel(x, gain, y, scale, d, eps, ACT: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    """A row of x [n, d] -> e4m3 y [n, d] and float32 scale [n].

    Normed first where gain [d] is given; with ACT x is [n, 2 d] = (gate, up), and gated first.
    """
    start_next(EARLY)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < d
    if gain is not None:
        weight = tl.load(gain + columns, mask=inside, other=0.0).to(tl.float32)
    wait(EARLY)
    if ACT is None:
        value = tl.load(x + row * d + columns, mask=inside, other=0.0).to(tl.float32)
    else:
        gate = tl.load(x + row * 2 * d + columns, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(x + row * 2 * d + d + columns, mask=inside, other=0.0).to(tl.float32)
        value = activate(gate, up, ACT)
    if gain is not None:
        value = value * tl.rsqrt(tl.sum(value * value, 0) / d + eps) * weight
    step = tl.maximum(tl.max(tl.abs(value), 0) / 448.0, 1e-12)
    tl.store(scale + row, step)
    value = tl.minimum(tl.maximum(value / step, -448.0), 448.0)
    tl.store(y + row * d + columns, value.to(y.dtype.element_ty), mask=inside)


def quantise(
    x: Tensor, gain: Tensor | None = None, eps: float = 0.0, act: str | None = None
) -> tuple[Tensor, Tensor]:
    """x [n, d] -> e4m3 [n, d] and scales [n, 1], after a norm where `gain` is given.

    With `act`, a gated activation of x [n, 2 d] comes first.
    """
    n, d = x.shape[0], x.shape[1] // (2 if act else 1)
    y = torch.empty(n, d, dtype=EIGHT, device=x.device)
    scale = torch.empty(n, 1, device=x.device)
    block, first = triton.next_power_of_2(d), early(x)
    quantise_kernel[(n,)](
        x, gain, y, scale, d, eps, ACT=act, BLOCK=block, EARLY=first,
        num_warps=row_warps(block), launch_pdl=first,
    )  # fmt: skip
    return y, scale


def _few(x: Tensor, weight: Tensor, *_: object, before: str | None = None, **named: object) -> bool:
    return before is None and skinny(x, weight)


def _many(x: Tensor, weight: Tensor, *_: object, **named: object) -> bool:
    wide, deep = weight.shape
    aligned = wide % 16 == 0 and deep % 16 == 0 and deep <= _WIDEST
    return x.shape[0] > 0 and aligned and x.is_contiguous() and x.dtype != torch.float32


@project_eight.kernel("cuda", when=_many)
def _through_eight_bits(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    gain: Tensor | None = None,
    eps: float = 0.0,
    act: str | None = None,
    before: str | None = None,
) -> Tensor:
    rows, row_scale = quantise(x, gain, eps, before)
    y = torch._scaled_mm(
        rows, weight.t(), row_scale, scale.view(1, -1), out_dtype=torch.bfloat16, use_fast_accum=True
    ).to(x.dtype)
    y = y if bias is None else y.add_(bias)
    y = y if act is None else GATES[act](y)
    return y if residual is None else residual.add_(y)


@project_eight.kernel("cuda", when=_few)
def streaming(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    gain: Tensor | None = None,
    eps: float = 0.0,
    act: str | None = None,
    before: str | None = None,
) -> Tensor:
    assert before is None, "few rows are gated by the product that makes them"
    if x.shape[0] > 1 and _many(x, weight):
        rows, row_scale = quantise(x, gain, eps)
        terms = Terms(scale, bias, residual, act=act, dtype=x.dtype, x_scale=row_scale)
        return multiply(rows, weight, terms)
    return multiply(x, weight, Terms(scale, bias, residual, gain, eps, act))
