"""Decoding: one query a row over the paged cache, balanced by the work list.

All query heads that share a key head are one tile, so keys and values are read once. A program walks the
items of its span; a row it holds alone goes straight to the output, parts of others go to a workspace and
are merged by whoever finishes last (`fused`), or by a second kernel.

The cache is seen as [pages, page, kv_heads, d] by strides, d contiguous.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.ops.triton.attention_softmax import LOWEST, cap, fold, narrowed, product
from octavo.ops.triton.attention_work import (
    BEGIN,
    END,
    FIELDS,
    FIRST,
    LENGTH,
    LOW,
    NEXT,
    PARTS,
    ROW,
    SLOT,
    TOKEN,
)
from octavo.ops.triton.launch import early, start_next, wait


class DecodeConfig(NamedTuple):
    """How a decode step is cut; chosen on the host (attention_tune.py)."""

    block: int = 64  # keys a tile
    warps: int = 4
    stages: int = 3
    per_sm: int = 2  # programs of the grid for each multiprocessor
    extra: int = 1  # what a row costs beside its tiles
    least: int = 2  # smallest span, in tiles
    fused: bool = True


class Workspace(NamedTuple):
    """Scratch memory of the decode kernels; `counters` are zero between launches."""

    parts: Tensor  # [2 * programs, heads, d] float32
    sums: Tensor  # [2 * programs, heads] float32
    counters: Tensor  # [rows, kv heads * head tiles] int32

    @staticmethod
    def make(programs: int, rows: int, heads: int, d: int, device: torch.device) -> Workspace:
        return Workspace(
            torch.empty((2 * programs, heads, d), dtype=torch.float32, device=device),
            torch.empty((2 * programs, heads), dtype=torch.float32, device=device),
            torch.zeros((rows, heads), dtype=torch.int32, device=device),
        )


@triton.jit
def merge_parts(parts, sums, out, first, count, heads, h, D: tl.constexpr, DP: tl.constexpr,
                MANY: tl.constexpr):  # fmt: skip
    """Head h of a row whose `count` parts begin in program `first`: one row of output."""
    d = tl.arange(0, DP)
    i = tl.arange(0, MANY)
    top = LOWEST
    total = 0.0
    acc = tl.zeros((DP,), tl.float32)
    for base in range(0, count, MANY):
        part = base + i
        here = part < count
        at = (2 * (first + part) + (part == 0).to(tl.int32)) * heads + h
        lse = tl.load(sums + at, mask=here, other=LOWEST, cache_modifier=".cg")
        o = tl.load(parts + at[:, None] * D + d[None, :], mask=here[:, None] & (d < D)[None, :], other=0.0,
                    cache_modifier=".cg")  # fmt: skip
        new = tl.maximum(top, tl.max(lse, 0))
        weight = tl.exp2(lse - new)
        before = tl.exp2(top - new)
        total = total * before + tl.sum(weight, 0)
        acc = acc * before + tl.sum(o * weight[:, None], 0)
        top = new
    tl.store(out + h * D + d, (acc / total).to(out.dtype.element_ty), mask=d < D)


@triton.jit
def merge_heads(parts, sums, out, first, count, head, many, HEADS: tl.constexpr, D: tl.constexpr,
                DP: tl.constexpr, GM: tl.constexpr):  # fmt: skip
    """The same for heads [head, head + many) at once: faster, but it takes more registers."""
    MANY: tl.constexpr = 1 if GM * DP >= 4096 else min(32, 4096 // (GM * DP))
    d = tl.arange(0, DP)
    g = tl.arange(0, GM)
    i = tl.arange(0, MANY)
    top = tl.full((GM,), LOWEST, tl.float32)
    total = tl.zeros((GM,), tl.float32)
    acc = tl.zeros((GM, DP), tl.float32)
    for base in range(0, count, MANY):
        part = base + i
        here = (part < count)[:, None] & (g < many)[None, :]
        at = (2 * (first + part) + (part == 0).to(tl.int32))[:, None] * HEADS + (head + g)[None, :]
        lse = tl.load(sums + at, mask=here, other=LOWEST, cache_modifier=".cg")
        o = tl.load(parts + at[:, :, None] * D + d[None, None, :],
                    mask=here[:, :, None] & (d < D)[None, None, :], other=0.0,
                    cache_modifier=".cg")  # fmt: skip
        new = tl.maximum(top, tl.max(lse, 0))
        weight = tl.exp2(lse - new[None, :])
        before = tl.exp2(top - new)
        total = total * before + tl.sum(weight, 0)
        acc = acc * before[:, None] + tl.sum(o * weight[:, :, None], 0)
        top = new
    to = out + (head + g)[:, None] * D + d[None, :]
    tl.store(to, (acc / total[:, None]).to(out.dtype.element_ty), mask=(g < many)[:, None] & (d < D)[None, :])


@triton.jit
def _start_from_prefix(
    prefix, prefix_sums, row, rows, heads, h, seen, d, scale2,
    D: tl.constexpr, GP: tl.constexpr, DP: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """The running softmax after the shared prefix, whose parts lie in prefix [SPLITS, rows, heads, D]."""
    top = tl.full((GP,), LOWEST, tl.float32)
    total = tl.zeros((GP,), tl.float32)
    acc = tl.zeros((GP, DP), tl.float32)
    for s in tl.static_range(SPLITS):
        at = (s * rows + row) * heads + h
        lse = tl.load(prefix_sums + at, mask=seen, other=LOWEST)
        some = seen & (lse > LOWEST)
        o = tl.load(prefix + at[:, None] * D + d[None, :], mask=some[:, None] & (d < D)[None, :], other=0.0)
        new = tl.maximum(top, lse)
        before = tl.exp2(top - new)
        weight = tl.where(some, tl.exp2(lse - new), 0.0)
        total = total * before + weight
        acc = acc * before[:, None] + o * weight[:, None]
        top = new
    return tl.where(total > 0, top / scale2, LOWEST), total, acc


@triton.jit
def _read(
    queries, m, w, acc, k_head, v_head, table, begin, end, low, length, page_step, place_step,
    scale1, scale2, softcap, GP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BLOCK: tl.constexpr,
    PAGE: tl.constexpr, SOFTCAP: tl.constexpr, EXACT: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Folds keys [low, length) of tiles [begin, end) into the running softmax; each tile has some."""
    d = tl.arange(0, DP)
    for n in tl.range(begin * BLOCK, end * BLOCK, BLOCK, num_stages=STAGES):
        at = n + tl.arange(0, BLOCK)
        seen = (at >= low) & (at < length)
        page = tl.load(table + at // PAGE, mask=seen, other=0)
        place = page.to(tl.int64) * page_step + (at % PAGE) * place_step
        where = place[:, None] + d[None, :]
        there = seen[:, None] & (d < D)[None, :]
        keys = tl.load(k_head + where, mask=there, other=0.0).to(queries.dtype)
        values = tl.load(v_head + where, mask=there, other=0.0).to(queries.dtype)
        s = product(queries, tl.trans(keys), tl.zeros((GP, BLOCK), tl.float32), EXACT)
        if SOFTCAP:
            s = cap(s, scale1, softcap)
        s = tl.where(seen[None, :], s, float("-inf"))
        p, alpha, m, w = fold(s, m, w, scale2)
        acc = product(p.to(values.dtype), values, acc * alpha[:, None], EXACT)
    return m, w, acc


@triton.jit
def _finish(
    out, parts, sums, counter, acc, lse, program, first, count, h, mine, base, many,
    HEADS: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, GM: tl.constexpr, FUSED: tl.constexpr,
):  # fmt: skip
    """Whole rows go to `out` (the token's); of others a part is left, and the last to come merges them,
    GM heads at once (0: one after the other)."""
    d = tl.arange(0, DP)
    inside = mine[:, None] & (d < D)[None, :]
    if count == 1:
        tl.store(out + h[:, None] * D + d[None, :], acc.to(out.dtype.element_ty), mask=inside)
    else:
        at = (2 * program + (program == first).to(tl.int32)) * HEADS + h
        tl.store(parts + at[:, None] * D + d[None, :], acc, mask=inside)
        tl.store(sums + at, lse, mask=mine)
        if FUSED:
            tl.debug_barrier()  # the whole part is written before it is counted
            if tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == count - 1:
                tl.store(counter, 0)
                if GM > 0:
                    merge_heads(parts, sums, out, first, count, base, many, HEADS, D, DP, GM)
                else:
                    for i in range(many):
                        merge_parts(parts, sums, out, first, count, HEADS, base + i, D, DP, 32)


@triton.jit
def _clear(out, token, tokens, step, h, inside, HEADS: tl.constexpr, D: tl.constexpr, GP: tl.constexpr,
           DP: tl.constexpr):  # fmt: skip
    """Zeros for tokens that belong to no row, so that nothing spreads from the padding."""
    for idle in range(token, tokens, step):
        to = out + tl.cast(idle, tl.int64) * (HEADS * D) + h[:, None] * D + tl.arange(0, DP)[None, :]
        tl.store(to, tl.zeros((GP, DP), out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "tokens", "programs", "table_step"])
def _decode_kernel(
    q, k_cache, v_cache, out, tables, items, row_start, parts, sums, counters, prefix, prefix_sums,
    rows, tokens, programs, q_step, table_step, page_step, place_step, head_step,
    scale, k_scale, v_scale, softcap,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, TILES: tl.constexpr, GP: tl.constexpr, D: tl.constexpr,
    DP: tl.constexpr, BLOCK: tl.constexpr, PAGE: tl.constexpr, SPLITS: tl.constexpr, SOFTCAP: tl.constexpr,
    EXACT: tl.constexpr, FUSED: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    start_next(EARLY)
    GROUP: tl.constexpr = HEADS // KV_HEADS
    view = tl.program_id(0) % (KV_HEADS * TILES)
    program = tl.program_id(0) // (KV_HEADS * TILES)
    kv = view // TILES
    base = (view % TILES) * GP
    g = base + tl.arange(0, GP)
    mine = g < GROUP
    h = kv * GROUP + g
    d = tl.arange(0, DP)
    inside = mine[:, None] & (d < D)[None, :]
    wait(EARLY)

    item = program
    while item >= 0:
        fields = items + item * FIELDS
        slot = tl.load(fields + SLOT)
        token = tl.load(fields + TOKEN).to(tl.int64)
        row = tl.load(fields + ROW)
        low = tl.load(fields + LOW)
        length = tl.load(fields + LENGTH)
        begin = tl.load(fields + BEGIN)
        end = tl.load(fields + END)
        first = tl.load(fields + FIRST)
        count = tl.load(fields + PARTS)
        item = tl.load(fields + NEXT)
        if begin < end:
            queries = tl.load(q + token * q_step + h[:, None] * D + d[None, :], mask=inside, other=0.0)
            queries, scale1 = narrowed(queries, scale * k_scale, k_cache)
            scale2 = scale1 * 1.4426950408889634
            table = tables + slot.to(tl.int64) * table_step
            m = tl.full((GP,), LOWEST, tl.float32)
            w = tl.zeros((GP,), tl.float32)
            acc = tl.zeros((GP, DP), tl.float32)
            if SPLITS > 0:  # noqa: SIM102, this is known when compiling
                if program == first:
                    m, w, acc = _start_from_prefix(
                        prefix, prefix_sums, row, rows, HEADS, h, mine, d, scale2, D, GP, DP, SPLITS
                    )
                    acc = acc / v_scale
            m, w, acc = _read(
                queries, m, w, acc, k_cache + kv * head_step, v_cache + kv * head_step, table, begin, end,
                low, length, page_step, place_step, scale1, scale2, softcap, GP, D, DP, BLOCK, PAGE, SOFTCAP,
                EXACT, STAGES,
            )  # fmt: skip
            _finish(
                out + token * (HEADS * D), parts, sums, counters + row * (KV_HEADS * TILES) + view,
                acc * (v_scale / w)[:, None], m * scale2 + tl.log2(w), program, first, count, h, mine,
                kv * GROUP + base, tl.minimum(GROUP - base, GP), HEADS, D, DP, 0, FUSED,
            )  # fmt: skip
    _clear(out, tl.load(row_start + rows) + program, tokens, programs, h, inside, HEADS, D, GP, DP)


@triton.jit(do_not_specialize=["programs"])
def _merge_kernel(out, items, parts, sums, programs, HEADS: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
                  EARLY: tl.constexpr):  # fmt: skip
    """One row and head; rows that one program held whole are done already."""
    start_next(EARLY)
    wait(EARLY)
    fields = items + (programs + tl.program_id(1)) * FIELDS
    count = tl.load(fields + PARTS)
    if count > 1:
        to = out + tl.load(fields + TOKEN).to(tl.int64) * (HEADS * D)
        merge_parts(parts, sums, to, tl.load(fields + FIRST), count, HEADS, tl.program_id(0), D, DP, 32)


def programs_for(config: DecodeConfig, kv_heads: int, processors: int) -> int:
    """Spans the work is cut into: one wave of the grid."""
    return max(1, processors * config.per_sm // kv_heads)


class Prefix(NamedTuple):
    """What attention_prefix.py left of the shared pages."""

    parts: Tensor  # [splits, rows, heads, d] float32
    sums: Tensor  # [splits, rows, heads] float32


def decode(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, out: Tensor, tables: Tensor, row_start: Tensor,
    items: Tensor, space: Workspace, config: DecodeConfig, *, programs: int, scale: float,
    softcap: float = 0.0, k_scale: float = 1.0, v_scale: float = 1.0, prefix: Prefix | None = None,
) -> None:  # fmt: skip
    """q [n, heads, d] of rows with one token -> out [n, heads * d]; zeroes tokens of no row.

    tables [slots, pages] int32; items as make_work made them with config.block and `programs`.
    """
    tokens, heads, d = q.shape
    page, kv_heads = k_cache.shape[1:3]
    rows, group = row_start.shape[0] - 1, heads // kv_heads
    packed = min(64, max(16, triton.next_power_of_2(group)))
    tiles = triton.cdiv(group, packed)
    exact = q.dtype == torch.float32
    assert k_cache.stride() == v_cache.stride() and k_cache.stride(3) == 1 and out.is_contiguous()
    assert q.stride(1) == d and q.stride(2) == 1 and space.counters.shape[0] >= rows
    padded, first = triton.next_power_of_2(d), early(q)
    _decode_kernel[(programs * kv_heads * tiles,)](
        q, k_cache, v_cache, out, tables, items, row_start, *space, *(prefix or (space.parts, space.sums)),
        rows, tokens, programs, q.stride(0), tables.stride(0), *k_cache.stride()[:3],
        scale, k_scale, v_scale, softcap,
        HEADS=heads, KV_HEADS=kv_heads, TILES=tiles, GP=packed, D=d, DP=padded,
        BLOCK=config.block, PAGE=page, SPLITS=0 if prefix is None else prefix.sums.shape[0],
        SOFTCAP=softcap > 0, EXACT=exact, FUSED=config.fused, STAGES=config.stages, EARLY=first,
        num_warps=config.warps, launch_pdl=first,
    )  # fmt: skip
    if not config.fused:
        _merge_kernel[(heads, rows)](
            out,
            items,
            space.parts,
            space.sums,
            programs,
            HEADS=heads,
            D=d,
            DP=padded,
            EARLY=first,
            num_warps=4,
            launch_pdl=first,
        )
