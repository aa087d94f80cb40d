"""A step of few rows that all decode: entry into attention (enter.py) and attention in one launch.

As in attention_direct.py every program finds its part of a row by itself. It takes the row's queries from
the fused projection and turns them itself; the part that ends the row begins its running softmax with the new
token, as it would be read back from the cache, where one program of each key head stores it. Nothing of this
step is read through the cache, so that no program waits for another. What earlier steps left there does not
depend on the kernel before either: a program holds its first tile of keys and values before it waits
(launch.py says why it may). Tiles are kept in registers, one ahead of its use, so that little shared memory
is taken from the kernels this one runs beside.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.ops.enter import LARGEST
from octavo.ops.triton.attention_decode import Workspace, _clear, _finish
from octavo.ops.triton.attention_direct import ROWS, _pick
from octavo.ops.triton.attention_softmax import LOWEST, cap, fold, narrowed, product
from octavo.ops.triton.launch import early, prefetch, start_next, wait

_LARGEST = tl.constexpr(LARGEST)


class EntryConfig(NamedTuple):
    """How rows are cut; chosen on the host (attention_tune.py)."""

    block: int = 64  # keys a tile
    warps: int = 8
    registers: int | None = None  # a thread's at most: fewer make room for more programs
    per_sm: int = 2  # programs for each multiprocessor that are aimed at
    least: int = 1  # smallest part, in tiles
    ahead: int = 0  # tiles after the first that are asked for in L2 before the wait


class Entry(NamedTuple):
    """What the projection and its surroundings say; layer by layer."""

    qkv: Tensor  # [n, (heads + 2 kv_heads) * d]
    angles: Tensor  # [n, 2, 1, <= d]
    q_norm: Tensor | None
    k_norm: Tensor | None
    eps: float
    heads: int


@triton.jit
def _places(table, at, seen, page_step, place_step, PAGE: tl.constexpr):
    """Where positions `at` lie in the cache of a head."""
    page = tl.load(table + at // PAGE, mask=seen, other=0, cache_modifier=".cg")
    return page.to(tl.int64) * page_step + (at % PAGE) * place_step


@triton.jit
def _tile(k_head, v_head, table, n, low, stop, page_step, place_step, D: tl.constexpr, DP: tl.constexpr,
          BLOCK: tl.constexpr, PAGE: tl.constexpr):  # fmt: skip
    """Keys and values of positions n, ..., as far as they are in [low, stop)."""
    d = tl.arange(0, DP)
    at = n + tl.arange(0, BLOCK)
    seen = (at >= low) & (at < stop)
    where = _places(table, at, seen, page_step, place_step, PAGE)[:, None] + d[None, :]
    there = seen[:, None] & (d < D)[None, :]
    keys = tl.load(k_head + where, mask=there, other=0.0, cache_modifier=".cg")
    return keys, tl.load(v_head + where, mask=there, other=0.0, cache_modifier=".cg")


@triton.jit
def _ask(k_head, v_head, table, n, low, stop, page_step, place_step, D: tl.constexpr, BLOCK: tl.constexpr,
         PAGE: tl.constexpr, EARLY: tl.constexpr):  # fmt: skip
    """Has the same fetched into L2: one pointer a cache line of 128 bytes."""
    LINE: tl.constexpr = 128 // (k_head.dtype.element_ty.primitive_bitwidth // 8)
    LINES: tl.constexpr = triton.next_power_of_2((D + LINE - 1) // LINE)
    if n < stop:
        at = tl.minimum(n + tl.arange(0, BLOCK), stop - 1)
        d = tl.minimum(tl.arange(0, LINES) * LINE, D - 1)
        where = _places(table, at, at >= low, page_step, place_step, PAGE)[:, None] + d[None, :]
        prefetch(k_head + where, EARLY)
        prefetch(v_head + where, EARLY)


@triton.jit
def _turned(x, other, gain, other_gain, cos, sin, eps, D: tl.constexpr):
    """Heads [., DP] in float32, normed and turned; `other` holds the value each one turns with."""
    x, other = x.to(tl.float32), other.to(tl.float32)
    if gain is not None:
        norm = tl.rsqrt(tl.sum(x * x, 1) / D + eps)[:, None]
        x, other = x * norm * gain.to(tl.float32), other * norm * other_gain.to(tl.float32)
    return x * cos + other * sin


@triton.jit
def _stored(value, scale, cache):
    """A value as the cache keeps it."""
    kind: tl.constexpr = cache.dtype.element_ty
    if kind == tl.float8e4nv:
        value = tl.minimum(tl.maximum(value / scale, -_LARGEST), _LARGEST)
    return value.to(kind)


@triton.jit(do_not_specialize=["rows", "tokens", "aim", "least", "table_step"])
def _entry_kernel(
    qkv, angles, q_norm, k_norm, k_cache, v_cache, out, tables, owners, lengths, row_start,
    parts, sums, counters, rows, tokens, aim, least, table_step, page_step, place_step, head_step,
    eps, scale, k_scale, v_scale, softcap,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, TILES: tl.constexpr, GP: tl.constexpr, GM: tl.constexpr,
    D: tl.constexpr, DP: tl.constexpr, TURNING: tl.constexpr, R: tl.constexpr, BLOCK: tl.constexpr,
    PAGE: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, EXACT: tl.constexpr,
    AHEAD: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    start_next(EARLY)
    GROUP: tl.constexpr = HEADS // KV_HEADS
    WIDE: tl.constexpr = (HEADS + 2 * KV_HEADS) * D
    kind: tl.constexpr = qkv.dtype.element_ty
    view = tl.program_id(0)
    program = tl.program_id(1)
    kv = view // TILES
    base = (view % TILES) * GP
    g = base + tl.arange(0, GP)
    mine = g < GROUP
    h = kv * GROUP + g
    # what all heads share is loaded for each of them, where it is needed: nothing is exchanged
    d = tl.broadcast_to(tl.arange(0, DP)[None, :], [GP, DP])
    real = d < D
    inside = mine[:, None] & real
    r = tl.arange(0, R)
    live = r < rows
    # before the wait: what earlier kernels than the last one wrote, past L1, which may hold older values
    token = tl.load(row_start + r, mask=live, other=0, cache_modifier=".cg")
    after = tl.load(row_start + r + 1, mask=live, other=0, cache_modifier=".cg")
    length = tl.load(lengths + r, mask=live, other=0, cache_modifier=".cg")
    slot = tl.load(owners + r, mask=live, other=0, cache_modifier=".cg")
    used = tl.load(row_start + rows, cache_modifier=".cg")
    live &= (after - token == 1) & (length > 0)
    low = tl.zeros_like(length)
    if WINDOW > 0:
        low = tl.maximum(length - WINDOW, 0)
    # tiles of keys that are in the cache; a row that has none is a part all the same
    tiles = tl.where(live, tl.maximum(tl.cdiv(length - 1, BLOCK) - low // BLOCK, 1), 0)
    span = tl.maximum(tl.cdiv(tl.sum(tiles, 0), aim), least)
    counts = tl.cdiv(tiles, span)
    ends = tl.cumsum(counts, 0)
    row = tl.sum((ends <= program).to(tl.int32), 0)
    # a program that has nothing to do makes room for the next kernel; one waits in any case (launch.py)
    if (row < R) | (used + program < tokens) | (program == 0):
        own = r == row
        count = _pick(counts, own)
        part = program - (_pick(ends, own) - count)
        many = _pick(tiles, own)
        lowest = _pick(low, own)
        new = _pick(length, own) - 1  # the position of this step's token
        at = _pick(token, own).to(tl.int64)
        table = tables + _pick(slot, own).to(tl.int64) * table_step
        each = tl.cdiv(many, tl.maximum(count, 1))
        begin = (lowest // BLOCK + part * each) * BLOCK
        stop = tl.minimum(begin + each * BLOCK, new)
        ends_row = part == count - 1
        k_head, v_head = k_cache + kv * head_step, v_cache + kv * head_step
        keys, values = _tile(k_head, v_head, table, begin, lowest, stop, page_step, place_step, D, DP, BLOCK,
                             PAGE)  # fmt: skip
        place = _places(table, new, row < R, page_step, place_step, PAGE)
        for i in tl.static_range(AHEAD):
            _ask(k_head, v_head, table, begin + (i + 1) * BLOCK, lowest, stop, page_step, place_step, D,
                 BLOCK, PAGE, EARLY)  # fmt: skip
        pair = (d + TURNING // 2) % TURNING
        turns = d < TURNING
        q_gain, q_other_gain, k_gain, k_other_gain = None, None, None, None
        if q_norm is not None:
            q_gain = tl.load(q_norm + d, mask=real, other=0.0)
            q_other_gain = tl.load(q_norm + pair, mask=turns, other=0.0)
            k_gain = tl.load(k_norm + d, mask=real, other=0.0)
            k_other_gain = tl.load(k_norm + pair, mask=turns, other=0.0)
        wait(EARLY)
        if row < R:
            line = qkv + at * WIDE
            q_line, k_line = line + h[:, None] * D, line + (HEADS + kv) * D
            q = tl.load(q_line + d, mask=inside, other=0.0)
            q_other = tl.load(q_line + pair, mask=inside & turns, other=0.0)
            k = tl.load(k_line + d, mask=real, other=0.0)
            k_other = tl.load(k_line + pair, mask=turns, other=0.0)
            v = tl.load(k_line + KV_HEADS * D + d, mask=real, other=0.0)
            cos = tl.load(angles + at * (2 * TURNING) + d, mask=turns, other=1.0).to(tl.float32)
            sin = tl.load(angles + at * (2 * TURNING) + TURNING + d, mask=turns, other=0.0).to(tl.float32)
            q = _turned(q, q_other, q_gain, q_other_gain, cos, sin, eps, D)
            k = _stored(_turned(k, k_other, k_gain, k_other_gain, cos, sin, eps, D), k_scale, k_cache)
            v = _stored(v.to(tl.float32), v_scale, v_cache)
            stores = real & ((g == 0) & ends_row)[:, None]
            tl.store(k_head + place + d, k, mask=stores)
            tl.store(v_head + place + d, v, mask=stores)
            queries, scale1 = narrowed(q.to(kind), scale * k_scale, k_cache)
            scale2 = scale1 * 1.4426950408889634
            score = tl.sum(queries.to(tl.float32) * k.to(tl.float32), 1)
            if SOFTCAP:
                score = cap(score, scale1, softcap)
            m = tl.where(ends_row, score, LOWEST)
            w = tl.where(ends_row, 1.0, tl.zeros([GP], tl.float32))
            acc = tl.where(ends_row, v.to(tl.float32), 0.0)
            for n in tl.range(begin, stop, BLOCK, num_stages=1):
                next_keys, next_values = _tile(k_head, v_head, table, n + BLOCK, lowest, stop, page_step,
                                               place_step, D, DP, BLOCK, PAGE)  # fmt: skip
                here = n + tl.arange(0, BLOCK)
                s = product(
                    queries, tl.trans(keys.to(queries.dtype)), tl.zeros((GP, BLOCK), tl.float32), EXACT
                )
                if SOFTCAP:
                    s = cap(s, scale1, softcap)
                s = tl.where(((here >= lowest) & (here < stop))[None, :], s, float("-inf"))
                p, alpha, m, w = fold(s, m, w, scale2)
                acc = product(p.to(queries.dtype), values.to(queries.dtype), acc * alpha[:, None], EXACT)
                keys, values = next_keys, next_values
            _finish(
                out + at * (HEADS * D), parts, sums, counters + row * (KV_HEADS * TILES) + view,
                acc * (v_scale / w)[:, None], m * scale2 + tl.log2(w), program, program - part, count, h,
                mine, kv * GROUP + base, tl.minimum(GROUP - base, GP), HEADS, D, DP, GM, True,
            )  # fmt: skip
        _clear(out, used + program, tokens, tl.num_programs(1), h, inside, HEADS, D, GP, DP)


def enter_few(
    entry: Entry, k_cache: Tensor, v_cache: Tensor, out: Tensor, tables: Tensor, owners: Tensor,
    lengths: Tensor, row_start: Tensor, space: Workspace, config: EntryConfig, *, programs: tuple[int, int],
    scale: float, window: int = 0, softcap: float = 0.0, k_scale: float = 1.0, v_scale: float = 1.0,
) -> None:  # fmt: skip
    """octavo.ops.enter, then attention_direct.decode_few, for rows of one token or none.

    The caches are changed only where the rows' last positions lie; `lengths` count those.
    """
    page, kv_heads, d = k_cache.shape[1:4]
    qkv, heads = entry.qkv, entry.heads
    rows, group = row_start.shape[0] - 1, heads // kv_heads
    packed = min(64, max(16, triton.next_power_of_2(group)))
    tiles, (aim, most) = triton.cdiv(group, packed), programs
    assert rows <= ROWS and k_cache.stride() == v_cache.stride() and k_cache.stride(3) == 1
    assert qkv.is_contiguous() and entry.angles.is_contiguous() and out.is_contiguous()
    assert space.counters.shape[0] >= rows and space.parts.shape[0] >= 2 * most
    first = early(qkv)
    _entry_kernel[(kv_heads * tiles, most)](
        qkv, entry.angles, entry.q_norm, entry.k_norm, k_cache, v_cache, out, tables, owners, lengths,
        row_start, *space, rows, qkv.shape[0], aim, config.least, tables.stride(0), *k_cache.stride()[:3],
        entry.eps, scale, k_scale, v_scale, softcap,
        HEADS=heads, KV_HEADS=kv_heads, TILES=tiles, GP=packed,
        GM=min(packed, triton.next_power_of_2(group)), D=d, DP=triton.next_power_of_2(d),
        TURNING=entry.angles.shape[-1], R=ROWS, BLOCK=config.block, PAGE=page, WINDOW=window,
        SOFTCAP=softcap > 0, EXACT=qkv.dtype == torch.float32, AHEAD=config.ahead, EARLY=first,
        num_warps=config.warps, num_stages=1, maxnreg=config.registers, launch_pdl=first,
    )  # fmt: skip
