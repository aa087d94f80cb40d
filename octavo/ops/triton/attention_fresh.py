"""Attention of whole prompts, whose keys and values all come from this step and lie one token after another.

For Hopper: tiles come by TMA, and the products of one block of keys run while the weights of the next are
made from its scores. A program is one tile of queries of one head; blocks go from the diagonal to the
row's first key, so that only the first is masked. Rows of one token belong to attention_decode.py.
"""

from __future__ import annotations

from functools import cache

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

from octavo.ops.triton.attention_gather import FreshConfig

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
def _row_at(row_start, rows, x, TILE: gl.constexpr, R: gl.constexpr):
    """(index among R, beginning, end) of the row tile x belongs to, as attention_prefill._row_at has it;
    every warp looks at R rows a time, so that there is one load to wait for and not one a bisection."""
    V: gl.constexpr = gl.BlockedLayout([R // 32], [32], [gl.num_warps()], [0])
    row = -1
    begin = 0
    end = 0
    base = 0
    while base < rows:
        r = base + gl.arange(0, R, V)
        starts = gl.load(row_start + r, mask=r < rows, other=1 << 30)
        ends = gl.load(row_start + r + 1, mask=r < rows, other=0)
        before = gl.sum((starts // TILE + r <= x).to(gl.int32), 0)
        mine = r == base + before - 1
        if before > 0:
            row = base + before - 1
            begin = gl.sum(gl.where(mine, starts, 0), 0)
            end = gl.sum(gl.where(mine, ends, 0), 0)
        base = gl.where(before < R, rows, base + R)
    return row, begin, end


@gluon.jit
def _hide(s, i, TILE: gl.constexpr, BLOCK: gl.constexpr):
    """Block i counted back from the tile's last: keys after a query are not for it."""
    query = gl.arange(0, TILE, gl.SliceLayout(1, s.type.layout))
    key = gl.arange(0, BLOCK, gl.SliceLayout(0, s.type.layout)) + (TILE - BLOCK - i * BLOCK)
    return gl.where(query[:, None] >= key[None, :], s, float("-inf"))


@gluon.jit
def _step(
    i, m, w, acc, weights, queries, keys, values, k_ready, v_ready, k_source, v_source, last, column, blocks,
    scale2, TILE: gl.constexpr, BLOCK: gl.constexpr, D: gl.constexpr, MASKED: gl.constexpr,
):  # fmt: skip
    """Adds block i, whose weights are made already, while those of block i + 1 are being made."""
    BYTES: gl.constexpr = BLOCK * D * 2
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [gl.num_warps(), 1], [16, BLOCK, 16])
    this = i % 2
    other = 1 - this
    mbarrier.wait(k_ready.index(other), ((i + 1) // 2) & 1)
    zero = gl.full([TILE, BLOCK], 0.0, gl.float32, S)
    scores = warpgroup_mma(queries, keys.index(other).permute((1, 0)), zero, use_acc=False, is_async=True)
    mbarrier.wait(v_ready.index(this), (i // 2) & 1)
    sums = warpgroup_mma(weights, values.index(this), acc, is_async=True)
    s = warpgroup_mma_wait(1, deps=(scores,))
    _fetch(k_source, last - (i + 3) * BLOCK, column, k_ready.index(other), keys.index(other),
           i + 3 < blocks, BYTES)  # fmt: skip
    if MASKED:
        s = _hide(s, i + 1, TILE, BLOCK)
    p, alpha, m, w = _weigh(s, m, w, scale2)
    acc = warpgroup_mma_wait(0, deps=(sums,))
    _fetch(v_source, last - (i + 2) * BLOCK, column, v_ready.index(this), values.index(this),
           i + 2 < blocks, BYTES)  # fmt: skip
    acc = acc * gl.convert_layout(alpha, gl.SliceLayout(1, acc.type.layout))[:, None]
    return m, w, acc, gl.convert_layout(p.to(queries.dtype), weights.type.layout)


@gluon.jit
def _attend(
    q_source, k_source, v_source, begin, tile, head, kv, scale2, TILE: gl.constexpr, BLOCK: gl.constexpr,
    D: gl.constexpr,
):  # fmt: skip
    """(sums of weighted values, sums of weights) of one tile of queries."""
    BYTES: gl.constexpr = BLOCK * D * 2
    kind: gl.constexpr = q_source.dtype
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [gl.num_warps(), 1], [16, BLOCK, 16])
    O: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [gl.num_warps(), 1], [16, D, 16])  # noqa: E741
    queries = gl.allocate_shared_memory(kind, [TILE, D], q_source.layout)
    keys = gl.allocate_shared_memory(kind, [2, BLOCK, D], k_source.layout)
    values = gl.allocate_shared_memory(kind, [2, BLOCK, D], v_source.layout)
    q_ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    k_ready = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    v_ready = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_ready, count=1)
    for b in gl.static_range(2):
        mbarrier.init(k_ready.index(b), count=1)
        mbarrier.init(v_ready.index(b), count=1)
    fence_async_shared()

    blocks = (tile + 1) * (TILE // BLOCK)
    last = begin + blocks * BLOCK - BLOCK  # block i, counted back, begins at last - i * BLOCK
    column = kv * D
    _fetch(q_source, begin + tile * TILE, head * D, q_ready, queries, True, TILE * D * 2)
    for b in gl.static_range(2):
        _fetch(k_source, last - b * BLOCK, column, k_ready.index(b), keys.index(b), b < blocks, BYTES)
        _fetch(v_source, last - b * BLOCK, column, v_ready.index(b), values.index(b), b < blocks, BYTES)

    zero = gl.full([TILE, BLOCK], 0.0, gl.float32, S)
    acc = gl.full([TILE, D], 0.0, gl.float32, O)
    m = gl.full([TILE], -1.0e30, gl.float32, gl.SliceLayout(1, S))
    w = gl.full([TILE], 0.0, gl.float32, gl.SliceLayout(1, S))
    mbarrier.wait(q_ready, 0)
    mbarrier.wait(k_ready.index(0), 0)
    s = warpgroup_mma(queries, keys.index(0).permute((1, 0)), zero, use_acc=False)
    _fetch(k_source, last - 2 * BLOCK, column, k_ready.index(0), keys.index(0), blocks > 2, BYTES)
    p, _, m, w = _weigh(_hide(s, 0, TILE, BLOCK), m, w, scale2)
    weights = gl.convert_layout(p.to(kind), gl.DotOperandLayout(0, O, 2))
    for i in gl.static_range(TILE // BLOCK - 1):
        m, w, acc, weights = _step(
            i, m, w, acc, weights, queries, keys, values, k_ready, v_ready, k_source, v_source, last, column,
            blocks, scale2, TILE, BLOCK, D, True,
        )  # fmt: skip
    for i in range(TILE // BLOCK - 1, blocks - 1):
        m, w, acc, weights = _step(
            i, m, w, acc, weights, queries, keys, values, k_ready, v_ready, k_source, v_source, last, column,
            blocks, scale2, TILE, BLOCK, D, False,
        )  # fmt: skip
    final = (blocks - 1) % 2
    mbarrier.wait(v_ready.index(final), ((blocks - 1) // 2) & 1)
    acc = warpgroup_mma(weights, values.index(final), acc)
    return acc, gl.convert_layout(w, gl.SliceLayout(1, O))


@gluon.jit(do_not_specialize=["rows"])
def _fresh_kernel(
    q_source, k_source, v_source, out, lengths, row_start, rows, scale,
    HEADS: gl.constexpr, KV_HEADS: gl.constexpr, TILE: gl.constexpr, BLOCK: gl.constexpr, D: gl.constexpr,
):  # fmt: skip
    head = gl.program_id(0)
    x = gl.program_id(1)
    row, begin, end = _row_at(row_start, rows, x, TILE, 128)
    count = end - begin
    tiles = (count + TILE - 1) // TILE
    tile = x - (begin // TILE + row)
    if (count > 1) & (tile < tiles) & (gl.load(lengths + gl.maximum(row, 0)) == count):
        tile = tiles - 1 - tile
        kv = head // (HEADS // KV_HEADS)
        acc, w = _attend(
            q_source, k_source, v_source, begin, tile, head, kv, scale * 1.4426950408889634, TILE, BLOCK, D
        )
        W: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [gl.num_warps(), 1], [1, 0])
        acc = gl.convert_layout((acc / w[:, None]).to(out.dtype.element_ty), W)
        i = tile * TILE + gl.arange(0, TILE, gl.SliceLayout(1, W))
        d = gl.arange(0, D, gl.SliceLayout(0, W))
        to = (begin + i).to(gl.int64) * (HEADS * D) + head * D
        gl.store(out + to[:, None] + d[None, :], acc, mask=(i < count)[:, None])


@cache
def _layout(d: int) -> gl.NVMMASharedLayout:
    return gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)


def _blocks(x: Tensor, d: int, rows: int) -> TensorDescriptor:
    """[n, heads * d] with rows any distance apart, in blocks of so many rows of one head."""
    return TensorDescriptor(x, list(x.shape), list(x.stride()), [rows, d], _layout(d))


def fresh(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lengths: Tensor, row_start: Tensor, config: FreshConfig,
    *, scale: float,
) -> None:  # fmt: skip
    """q [n, heads, d], k and v [n, kv_heads * d] -> out [n, heads * d], for rows of more than one token
    with nothing before this step."""
    tokens, heads, d = q.shape
    assert d in HEAD_SIZES and q.dtype == k.dtype == v.dtype and q.element_size() == 2
    assert q.is_contiguous() and out.is_contiguous() and k.stride(1) == v.stride(1) == 1
    rows = row_start.shape[0] - 1
    _fresh_kernel[(heads, tokens // config.tile + rows)](
        _blocks(q.view(tokens, heads * d), d, config.tile), _blocks(k, d, config.block),
        _blocks(v, d, config.block), out, lengths, row_start, rows, scale,
        HEADS=heads, KV_HEADS=k.shape[1] // d, TILE=config.tile, BLOCK=config.block, D=d,
        num_warps=config.warps,
    )  # fmt: skip
