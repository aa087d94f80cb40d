"""Attention of rows with several tokens over the paged cache: prompts, chunks, mixed steps.

A tile is BLOCK_M pairs of (token, query head of one key head), so short prompts fill it too. The grid is
an upper bound; a program finds its row by bisection. Tiles run from a row's last to its first, so that
the long ones do not come at the end. The keys of this step are already in the cache, which is seen as
[pages, page, kv_heads, d] by strides, d contiguous. Rows of one token belong to attention_decode.py.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.ops.triton.attention_softmax import LOWEST, cap, fold, narrowed, product
from octavo.ops.triton.launch import early, start_next, wait


class PrefillConfig(NamedTuple):
    """Chosen on the host (attention_tune.py)."""

    tile: int = 128  # (token, head) pairs
    block: int = 64  # keys
    warps: int = 8
    stages: int = 3


@triton.jit
def _places(table, at, seen, kv, page_step, place_step, head_step, PAGE: tl.constexpr, MASKED: tl.constexpr):
    page = tl.load(table + at // PAGE, mask=seen, other=0) if MASKED else tl.load(table + at // PAGE)
    return page.to(tl.int64) * page_step + (at % PAGE) * place_step + kv * head_step


@triton.jit
def _rows_of(cache, places, seen, D: tl.constexpr, DP: tl.constexpr, MASKED: tl.constexpr):
    d = tl.arange(0, DP)
    where = places[:, None] + d[None, :]
    if MASKED:
        return tl.load(cache + where, mask=seen[:, None] & (d < D)[None, :], other=0.0)
    elif D < DP:
        return tl.load(cache + where, mask=(d < D)[None, :], other=0.0)
    else:
        return tl.load(cache + where)


@triton.jit
def attend(
    queries, m, w, acc, k_cache, v_cache, table, kv, start, stop, position, length,
    page_step, place_step, head_step, scale, scale2, softcap,
    BLOCK: tl.constexpr, PAGE: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr, EXACT: tl.constexpr, MASKED: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Folds keys [start, stop) into the running softmax. Not MASKED: every query sees all of them."""
    for n in tl.range(start, stop, BLOCK, num_stages=STAGES):
        n = tl.multiple_of(n, BLOCK)
        at = n + tl.arange(0, BLOCK)
        seen = at < length
        places = _places(table, at, seen, kv, page_step, place_step, head_step, PAGE, MASKED)
        keys = _rows_of(k_cache, places, seen, D, DP, MASKED).to(queries.dtype)
        zero = tl.zeros((queries.shape[0], BLOCK), tl.float32)
        s = product(queries, tl.trans(keys), zero, EXACT)
        if SOFTCAP:
            s = cap(s, scale, softcap)
        if MASKED:
            visible = position[:, None] >= at[None, :]
            if WINDOW > 0:
                visible &= position[:, None] - at[None, :] < WINDOW
            s = tl.where(visible, s, float("-inf"))
        p, alpha, m, w = fold(s, m, w, scale2)
        values = _rows_of(v_cache, places, seen, D, DP, MASKED).to(queries.dtype)
        acc = product(p.to(values.dtype), values, acc * alpha[:, None], EXACT)
    return m, w, acc


@triton.jit
def _row_at(row_start, rows, x, TOKENS: tl.constexpr):
    """The last row whose tiles begin at or before tile x: row r begins at row_start[r] // TOKENS + r."""
    low, high = 0, rows
    while high - low > 1:
        middle = (low + high) // 2
        if tl.load(row_start + middle) // TOKENS + middle <= x:
            low = middle
        else:
            high = middle
    return low


@triton.jit(do_not_specialize=["rows", "table_step"])
def _prefill_kernel(
    q, k_cache, v_cache, out, tables, owners, lengths, row_start,
    rows, q_step, table_step, page_step, place_step, head_step, scale, k_scale, v_scale, softcap,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, TILES: tl.constexpr, TOKENS: tl.constexpr,
    PACKED: tl.constexpr, M: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BLOCK: tl.constexpr,
    PAGE: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, EXACT: tl.constexpr,
    LATER: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    start_next(EARLY)
    wait(EARLY)
    GROUP: tl.constexpr = HEADS // KV_HEADS
    x = tl.program_id(0)
    row = _row_at(row_start, rows, x, TOKENS)
    begin = tl.load(row_start + row)
    count = tl.load(row_start + row + 1) - begin
    tiles = tl.cdiv(count, TOKENS)
    tile = x - (begin // TOKENS + row)
    asked = (count > 1) & (tile < tiles)
    length = tl.load(lengths + row)
    if LATER:
        asked &= length > count
    if asked:
        tile = tiles - 1 - tile
        view = tl.program_id(1)
        kv = view // TILES
        i = tl.arange(0, M)
        token = tile * TOKENS + i // PACKED
        g = (view % TILES) * PACKED + i % PACKED
        real = (i < TOKENS * PACKED) & (token < count) & (g < GROUP)
        d = tl.arange(0, DP)
        h = kv * GROUP + g
        inside = real[:, None] & (d < D)[None, :]
        to = (begin + token).to(tl.int64)
        queries = tl.load(q + (to * q_step + h * D)[:, None] + d[None, :], mask=inside, other=0.0)
        queries, scale1 = narrowed(queries, scale * k_scale, k_cache)
        table = tables + tl.load(owners + row).to(tl.int64) * table_step
        position = length - count + token
        lowest = length - count + tile * TOKENS
        highest = tl.minimum(lowest + TOKENS, length) - 1
        scale2 = scale1 * 1.4426950408889634

        # [start, open): the window's edge; [open, closed): seen by all; [closed, stop): the diagonal
        start = 0
        open = 0
        closed = (lowest + 1) // BLOCK * BLOCK
        stop = tl.cdiv(highest + 1, BLOCK) * BLOCK
        m = tl.full((M,), LOWEST, tl.float32)
        w = tl.zeros((M,), tl.float32)
        acc = tl.zeros((M, DP), tl.float32)
        if WINDOW > 0:
            start = tl.maximum(lowest - WINDOW + 1, 0) // BLOCK * BLOCK
            open = tl.minimum(tl.cdiv(tl.maximum(highest - WINDOW + 1, 0), BLOCK) * BLOCK, stop)
            closed = tl.maximum(closed, open)
            m, w, acc = attend(
                queries, m, w, acc, k_cache, v_cache, table, kv, start, open, position, length, page_step,
                place_step, head_step, scale1, scale2, softcap, BLOCK, PAGE, D, DP, WINDOW, SOFTCAP, EXACT,
                True, STAGES,
            )  # fmt: skip
        m, w, acc = attend(
            queries, m, w, acc, k_cache, v_cache, table, kv, open, closed, position, length, page_step,
            place_step, head_step, scale1, scale2, softcap, BLOCK, PAGE, D, DP, WINDOW, SOFTCAP, EXACT, False,
            STAGES,
        )  # fmt: skip
        m, w, acc = attend(
            queries, m, w, acc, k_cache, v_cache, table, kv, closed, stop, position, length, page_step,
            place_step, head_step, scale1, scale2, softcap, BLOCK, PAGE, D, DP, WINDOW, SOFTCAP, EXACT, True,
            STAGES,
        )  # fmt: skip
        acc = acc * (v_scale / tl.where(w > 0, w, 1.0))[:, None]  # rows of no token may see no key
        tl.store(out + (to * (HEADS * D) + h * D)[:, None] + d[None, :], acc.to(out.dtype.element_ty),
                 mask=inside)  # fmt: skip


def prefill(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, out: Tensor, tables: Tensor, owners: Tensor,
    lengths: Tensor, row_start: Tensor, config: PrefillConfig, *, tokens: int, scale: float, window: int = 0,
    softcap: float = 0.0, k_scale: float = 1.0, v_scale: float = 1.0, later: bool = False,
) -> None:  # fmt: skip
    """q [n, heads, d] -> out [n, heads * d] for rows of more than one token; `tokens` bounds their sum.
    `later`: only for those that began before this step."""
    heads, d = q.shape[1:]
    page, kv_heads = k_cache.shape[1:3]
    rows, group = row_start.shape[0] - 1, heads // kv_heads
    packed = min(group, config.tile)
    assert k_cache.stride() == v_cache.stride() and k_cache.stride(3) == 1 and out.is_contiguous()
    assert q.stride(1) == d and q.stride(2) == 1
    tiles, per_tile = triton.cdiv(group, packed), config.tile // packed
    first = early(q)
    _prefill_kernel[(tokens // per_tile + rows, kv_heads * tiles)](
        q, k_cache, v_cache, out, tables, owners, lengths, row_start,
        rows, q.stride(0), tables.stride(0), *k_cache.stride()[:3], scale, k_scale, v_scale, softcap,
        HEADS=heads, KV_HEADS=kv_heads, TILES=tiles, TOKENS=per_tile, PACKED=packed, M=config.tile, D=d,
        DP=triton.next_power_of_2(d), BLOCK=config.block, PAGE=page, WINDOW=window, SOFTCAP=softcap > 0,
        EXACT=q.dtype == torch.float32, LATER=later, STAGES=config.stages, EARLY=first,
        num_warps=config.warps, launch_pdl=first,
    )  # fmt: skip
