"""Decoding for few rows, where what counts is how many loads wait for one another.

There is no work list: every program reads the lengths of all rows (R at most) and finds its part by itself.
Rows are cut into parts of about equally many tiles, one program's each, that are merged as in
attention_decode.py.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.ops.triton.attention_decode import Workspace, _clear, _finish, _read
from octavo.ops.triton.attention_softmax import LOWEST, narrowed
from octavo.ops.triton.launch import early, start_next, wait

ROWS = 32  # a warp's lanes: sums over rows stay inside a warp


class DirectConfig(NamedTuple):
    """How few rows are cut; chosen on the host (attention_tune.py)."""

    block: int = 64  # keys a tile
    warps: int = 4
    stages: int = 5
    per_sm: int = 2  # programs for each multiprocessor that are aimed at
    least: int = 1  # smallest part, in tiles


@triton.jit
def _pick(values, mine):
    """The one of `values` [R] that `mine` marks."""
    return tl.sum(tl.where(mine, values, 0), 0)


@triton.jit(do_not_specialize=["rows", "tokens", "aim", "least", "table_step"])
def _direct_kernel(
    q, k_cache, v_cache, out, tables, owners, lengths, row_start, parts, sums, counters,
    rows, tokens, aim, least, q_step, table_step, page_step, place_step, head_step,
    scale, k_scale, v_scale, softcap,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, TILES: tl.constexpr, GP: tl.constexpr, GM: tl.constexpr,
    D: tl.constexpr, DP: tl.constexpr, R: tl.constexpr, BLOCK: tl.constexpr, PAGE: tl.constexpr,
    WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, EXACT: tl.constexpr, STAGES: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    start_next(EARLY)
    GROUP: tl.constexpr = HEADS // KV_HEADS
    view = tl.program_id(0)
    program = tl.program_id(1)
    kv = view // TILES
    base = (view % TILES) * GP
    g = base + tl.arange(0, GP)
    mine = g < GROUP
    h = kv * GROUP + g
    d = tl.arange(0, DP)
    inside = mine[:, None] & (d < D)[None, :]
    r = tl.arange(0, R)
    live = r < rows
    wait(EARLY)

    token = tl.load(row_start + r, mask=live, other=0)
    after = tl.load(row_start + r + 1, mask=live, other=0)
    length = tl.load(lengths + r, mask=live, other=0)
    slot = tl.load(owners + r, mask=live, other=0)
    used = tl.load(row_start + rows)
    live &= (after - token == 1) & (length > 0)
    low = tl.zeros_like(length)
    if WINDOW > 0:
        low = tl.maximum(length - WINDOW, 0)
    tiles = tl.where(live, tl.cdiv(length, BLOCK) - low // BLOCK, 0)
    span = tl.maximum(tl.cdiv(tl.sum(tiles, 0), aim), least)
    counts = tl.cdiv(tiles, span)
    ends = tl.cumsum(counts, 0)
    row = tl.sum((ends <= program).to(tl.int32), 0)
    if row < R:  # else there is nothing left
        own = r == row
        count = _pick(counts, own)
        first = _pick(ends, own) - count
        many = _pick(tiles, own)
        lowest = _pick(low, own)
        highest = _pick(length, own)
        at = _pick(token, own).to(tl.int64)
        table = tables + _pick(slot, own).to(tl.int64) * table_step
        each = tl.cdiv(many, count)
        begin = (program - first) * each
        end = lowest // BLOCK + tl.minimum(begin + each, many)
        begin += lowest // BLOCK
        queries = tl.load(q + at * q_step + h[:, None] * D + d[None, :], mask=inside, other=0.0)
        queries, scale1 = narrowed(queries, scale * k_scale, k_cache)
        scale2 = scale1 * 1.4426950408889634
        m = tl.full((GP,), LOWEST, tl.float32)
        w = tl.zeros((GP,), tl.float32)
        acc = tl.zeros((GP, DP), tl.float32)
        m, w, acc = _read(
            queries, m, w, acc, k_cache + kv * head_step, v_cache + kv * head_step, table, begin, end, lowest,
            highest, page_step, place_step, scale1, scale2, softcap, GP, D, DP, BLOCK, PAGE, SOFTCAP, EXACT,
            STAGES,
        )  # fmt: skip
        _finish(
            out + at * (HEADS * D), parts, sums, counters + row * (KV_HEADS * TILES) + view,
            acc * (v_scale / w)[:, None], m * scale2 + tl.log2(w), program, first, count, h, mine,
            kv * GROUP + base, tl.minimum(GROUP - base, GP), HEADS, D, DP, GM, True,
        )  # fmt: skip
    _clear(out, used + program, tokens, tl.num_programs(1), h, inside, HEADS, D, GP, DP)


def programs_for(per_sm: int, rows: int, kv_heads: int, processors: int) -> tuple[int, int]:
    """(parts aimed at, most there can be) of each key head: rounding up may add one for every row."""
    aim = max(1, processors * per_sm // kv_heads)
    return aim, aim + rows


def decode_few(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, out: Tensor, tables: Tensor, owners: Tensor, lengths: Tensor,
    row_start: Tensor, space: Workspace, config: DirectConfig, *, programs: tuple[int, int], scale: float,
    window: int = 0, softcap: float = 0.0, k_scale: float = 1.0, v_scale: float = 1.0,
) -> None:  # fmt: skip
    """As attention_decode.decode, for at most ROWS rows; `space` is for the most programs there can be."""
    tokens, heads, d = q.shape
    page, kv_heads = k_cache.shape[1:3]
    rows, group = row_start.shape[0] - 1, heads // kv_heads
    packed = min(64, max(16, triton.next_power_of_2(group)))
    tiles, (aim, most) = triton.cdiv(group, packed), programs
    assert rows <= ROWS and k_cache.stride() == v_cache.stride() and k_cache.stride(3) == 1
    assert q.stride(1) == d and q.stride(2) == 1 and out.is_contiguous()
    assert space.counters.shape[0] >= rows and space.parts.shape[0] >= 2 * most
    first = early(q)
    _direct_kernel[(kv_heads * tiles, most)](
        q, k_cache, v_cache, out, tables, owners, lengths, row_start, *space,
        rows, tokens, aim, config.least, q.stride(0), tables.stride(0), *k_cache.stride()[:3],
        scale, k_scale, v_scale, softcap,
        HEADS=heads, KV_HEADS=kv_heads, TILES=tiles, GP=packed,
        GM=min(packed, triton.next_power_of_2(group)), D=d, DP=triton.next_power_of_2(d), R=ROWS,
        BLOCK=config.block, PAGE=page, WINDOW=window, SOFTCAP=softcap > 0, EXACT=q.dtype == torch.float32,
        STAGES=config.stages, EARLY=first, num_warps=config.warps, launch_pdl=first,
    )  # fmt: skip
