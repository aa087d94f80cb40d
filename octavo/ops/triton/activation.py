"""Gated activations over one fused tensor: a program a run of a row."""

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.ops.activation import GATES
from octavo.ops.triton.launch import activate, early, start_next, wait


@triton.jit
def gated_kernel(x, y, d, ACT: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    """x [n, 2 d] = (gate, up) -> y [n, d]."""
    start_next(EARLY)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < d
    wait(EARLY)
    gate = tl.load(x + row * 2 * d + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * d + d + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row * d + columns, activate(gate, up, ACT).to(y.dtype.element_ty), mask=inside)


def _fits(x: Tensor) -> bool:
    return x.dim() == 2 and x.numel() > 0 and x.is_contiguous()


def gated(x: Tensor, act: str) -> Tensor:
    n, d = x.shape[0], x.shape[1] // 2
    y = torch.empty(n, d, dtype=x.dtype, device=x.device)
    block = min(triton.next_power_of_2(d), 1024 if n < 64 else 2048)
    first = early(x)
    gated_kernel[(n, triton.cdiv(d, block))](
        x, y, d, ACT=act, BLOCK=block, EARLY=first, num_warps=max(1, block // 256), launch_pdl=first
    )
    return y


for _act, _op in GATES.items():
    _op.kernel("cuda", when=_fits, invariant=True)(partial(gated, act=_act))
