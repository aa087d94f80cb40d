"""The angles of a step's tokens in one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.ops.rope import rope_angles
from octavo.ops.triton.launch import early, start_next, wait


@triton.jit(do_not_specialize=["n"])
def angles_kernel(
    positions, inverse, out, n, half, scale, ROWS: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr
):
    """out [n, 2, 2 half] = (cos, cos), (-sin, sin) of positions * inverse, times scale.

    The gate of a step (launch.py): what follows begins when the kernels before this one are done.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    turn = tl.load(inverse + columns, mask=columns < half, other=0.0)
    wait(EARLY)
    start_next(EARLY)
    at = tl.load(positions + rows, mask=rows < n, other=0).to(tl.float32)
    angle = at[:, None] * turn[None, :]
    cos, sin = tl.cos(angle) * scale, tl.sin(angle) * scale
    keep = (rows < n)[:, None] & (columns < half)[None, :]
    spot = out + rows.to(tl.int64)[:, None] * (4 * half) + columns[None, :]
    kind = out.dtype.element_ty
    tl.store(spot, cos.to(kind), mask=keep)
    tl.store(spot + half, cos.to(kind), mask=keep)
    tl.store(spot + 2 * half, (-sin).to(kind), mask=keep)
    tl.store(spot + 3 * half, sin.to(kind), mask=keep)


def _fits(positions: Tensor, inverse: Tensor, scale: float, dtype: torch.dtype) -> bool:
    return positions.numel() > 0


@rope_angles.kernel("cuda", when=_fits, invariant=True)
def angles(positions: Tensor, inverse: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    n, half = positions.shape[0], inverse.shape[0]
    out = torch.empty(n, 2, 1, 2 * half, dtype=dtype, device=positions.device)
    block = triton.next_power_of_2(half)
    rows = max(1, 256 // block)
    first = early(positions)
    angles_kernel[(triton.cdiv(n, rows),)](
        positions,
        inverse,
        out,
        n,
        half,
        scale,
        ROWS=rows,
        BLOCK=block,
        EARLY=first,
        num_warps=4,
        launch_pdl=first,
    )
    return out
