"""Attention of whole prompts, whose keys and values all come from this step and lie one token after another.

For Hopper: tiles come by TMA, and the products of one block of keys run while the weights of the next are
made from its scores. A program is one tile of queries of one head; blocks go from the diagonal to the
row's first key, so that only the first is masked. Rows of one token belong to attention_decode.py.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

TILE = 128  # queries of a program, and keys of a block
HEAD_SIZES = (64, 128)


@gluon.jit
def _fetch(source, row, column, ready, to, needed, BYTES: gl.constexpr):
    """Has a block copied into shared memory; `ready` tells when it is there."""
    mbarrier.expect(ready, BYTES, pred=needed)
    tma.async_copy_global_to_shared(source, [row, column], ready, to, pred=needed)


@gluon.jit
def _weigh(s, m, w, scale2):
    """As attention_softmax.fold."""
    top = gl.maximum(m, gl.max(s, 1))
    p = gl.exp2(s * scale2 - (top * scale2)[:, None])
    alpha = gl.exp2((m - top) * scale2)
    return p, alpha, top, w * alpha + gl.sum(p, 1)


@gluon.jit
def _row_at(row_start, rows, x, TILE: gl.constexpr):
    """As attention_prefill._row_at."""
    low = 0
    high = rows
    while high - low > 1:
        middle = (low + high) // 2
        here = gl.load(row_start + middle) // TILE + middle <= x
        low = gl.where(here, middle, low)
        high = gl.where(here, high, middle)
    return low


@gluon.jit
def _attend(q_source, k_source, v_source, begin, tile, head, kv, scale2, TILE: gl.constexpr, D: gl.constexpr):
    """(sums of weighted values, sums of weights) of one tile of queries."""
    BYTES: gl.constexpr = TILE * D * 2
    kind: gl.constexpr = q_source.dtype
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [8, 1], [16, TILE, 16])
    O: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [8, 1], [16, D, 16])  # noqa: E741
    P: gl.constexpr = gl.DotOperandLayout(0, O, 2)
    S_ROWS: gl.constexpr = gl.SliceLayout(1, S)
    O_ROWS: gl.constexpr = gl.SliceLayout(1, O)
    queries = gl.allocate_shared_memory(kind, [TILE, D], q_source.layout)
    keys = gl.allocate_shared_memory(kind, [2, TILE, D], k_source.layout)
    values = gl.allocate_shared_memory(kind, [2, TILE, D], v_source.layout)
    q_ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    k_ready = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    v_ready = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_ready, count=1)
    for b in gl.static_range(2):
        mbarrier.init(k_ready.index(b), count=1)
        mbarrier.init(v_ready.index(b), count=1)
    fence_async_shared()

    blocks = tile + 1
    last = begin + tile * TILE  # of the blocks' first tokens; block i begins at last - i * TILE
    _fetch(q_source, last, head * D, q_ready, queries, True, BYTES)
    for b in gl.static_range(2):
        _fetch(k_source, last - b * TILE, kv * D, k_ready.index(b), keys.index(b), b < blocks, BYTES)
        _fetch(v_source, last - b * TILE, kv * D, v_ready.index(b), values.index(b), b < blocks, BYTES)

    zero = gl.full([TILE, TILE], 0.0, gl.float32, S)
    acc = gl.full([TILE, D], 0.0, gl.float32, O)
    mbarrier.wait(q_ready, 0)
    mbarrier.wait(k_ready.index(0), 0)
    s = warpgroup_mma(queries, keys.index(0).permute((1, 0)), zero, use_acc=False)
    _fetch(k_source, last - 2 * TILE, kv * D, k_ready.index(0), keys.index(0), blocks > 2, BYTES)
    query = gl.arange(0, TILE, S_ROWS)
    key = gl.arange(0, TILE, gl.SliceLayout(0, S))
    s = gl.where(query[:, None] >= key[None, :], s, float("-inf"))
    m = gl.full([TILE], -1.0e30, gl.float32, S_ROWS)
    w = gl.full([TILE], 0.0, gl.float32, S_ROWS)
    p, _, m, w = _weigh(s, m, w, scale2)
    weights = gl.convert_layout(p.to(kind), P)
    for i in range(blocks - 1):
        this = i % 2
        other = 1 - this
        mbarrier.wait(k_ready.index(other), ((i + 1) // 2) & 1)
        scores = warpgroup_mma(queries, keys.index(other).permute((1, 0)), zero, use_acc=False, is_async=True)
        mbarrier.wait(v_ready.index(this), (i // 2) & 1)
        sums = warpgroup_mma(weights, values.index(this), acc, is_async=True)
        s = warpgroup_mma_wait(1, deps=(scores,))
        _fetch(k_source, last - (i + 3) * TILE, kv * D, k_ready.index(other), keys.index(other),
               i + 3 < blocks, BYTES)  # fmt: skip
        p, alpha, m, w = _weigh(s, m, w, scale2)
        acc = warpgroup_mma_wait(0, deps=(sums,))
        _fetch(v_source, last - (i + 2) * TILE, kv * D, v_ready.index(this), values.index(this),
               i + 2 < blocks, BYTES)  # fmt: skip
        acc = acc * gl.convert_layout(alpha, O_ROWS)[:, None]
        weights = gl.convert_layout(p.to(kind), P)
    mbarrier.wait(v_ready.index(tile % 2), (tile // 2) & 1)
    acc = warpgroup_mma(weights, values.index(tile % 2), acc)
    return acc, gl.convert_layout(w, O_ROWS)


@gluon.jit(do_not_specialize=["rows"])
def _fresh_kernel(
    q_source, k_source, v_source, out, row_start, rows, scale,
    HEADS: gl.constexpr, KV_HEADS: gl.constexpr, TILE: gl.constexpr, D: gl.constexpr,
):  # fmt: skip
    head = gl.program_id(0)
    x = gl.program_id(1)
    row = _row_at(row_start, rows, x, TILE)
    begin = gl.load(row_start + row)
    count = gl.load(row_start + row + 1) - begin
    tiles = (count + TILE - 1) // TILE
    tile = x - (begin // TILE + row)
    if (count > 1) & (tile < tiles):
        tile = tiles - 1 - tile
        kv = head // (HEADS // KV_HEADS)
        acc, w = _attend(
            q_source, k_source, v_source, begin, tile, head, kv, scale * 1.4426950408889634, TILE, D
        )
        W: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [8, 1], [1, 0])
        acc = gl.convert_layout((acc / w[:, None]).to(out.dtype.element_ty), W)
        i = tile * TILE + gl.arange(0, TILE, gl.SliceLayout(1, W))
        d = gl.arange(0, D, gl.SliceLayout(0, W))
        to = (begin + i).to(gl.int64) * (HEADS * D) + head * D
        gl.store(out + to[:, None] + d[None, :], acc, mask=(i < count)[:, None])


@cache
def _layout(d: int) -> gl.NVMMASharedLayout:
    return gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)


def _blocks(x: Tensor, d: int) -> TensorDescriptor:
    """[n, heads * d] with rows any distance apart, in blocks of TILE rows of one head."""
    return TensorDescriptor(x, list(x.shape), list(x.stride()), [TILE, d], _layout(d))


def fresh(q: Tensor, k: Tensor, v: Tensor, out: Tensor, row_start: Tensor, *, scale: float) -> None:
    """q [n, heads, d], k and v [n, kv_heads * d] -> out [n, heads * d], for rows of more than one token,
    all of them with nothing before this step."""
    tokens, heads, d = q.shape
    assert d in HEAD_SIZES and q.dtype == k.dtype == v.dtype and q.element_size() == 2
    assert q.is_contiguous() and out.is_contiguous() and k.stride(1) == v.stride(1) == 1
    rows = row_start.shape[0] - 1
    _fresh_kernel[(heads, tokens // TILE + rows)](
        _blocks(q.view(tokens, heads * d), d), _blocks(k, d), _blocks(v, d), out, row_start, rows, scale,
        HEADS=heads, KV_HEADS=k.shape[1] // d, TILE=TILE, D=d, num_warps=8,
    )  # fmt: skip


def usable(device: torch.device) -> bool:
    """On Hopper, and with the triton this was written for: gluon changes between releases."""
    known = triton.__version__.startswith("3.6.")
    return known and device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9
