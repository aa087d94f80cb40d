"""The pages that all rows share, read once for all of them (cascade).

Queries of the decoding rows are packed into tiles of (row, head of one key head); the shared keys are cut
into splits, and each leaves a part (normalised output, log2 of the weights' sum) that attention_decode.py
starts a row's own keys from. Reads the true number of shared pages on the device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.ops.triton.attention_decode import Prefix
from octavo.ops.triton.attention_prefill import attend
from octavo.ops.triton.attention_softmax import LOWEST, narrowed
from octavo.ops.triton.launch import early, start_next, wait


class PrefixConfig(NamedTuple):
    """Chosen on the host (attention_tune.py)."""

    tile: int = 64  # (row, head) pairs
    block: int = 64  # keys
    warps: int = 4
    stages: int = 3
    splits: int = 2


@triton.jit(do_not_specialize=["rows", "table_step"])
def _prefix_kernel(
    q, k_cache, v_cache, parts, sums, tables, owners, row_start, shared,
    rows, q_step, table_step, page_step, place_step, head_step, scale, k_scale, v_scale, softcap,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, TILES: tl.constexpr, ROWS: tl.constexpr,
    PACKED: tl.constexpr, M: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BLOCK: tl.constexpr,
    PAGE: tl.constexpr, SPLITS: tl.constexpr, SOFTCAP: tl.constexpr, EXACT: tl.constexpr,
    STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    start_next(EARLY)
    GROUP: tl.constexpr = HEADS // KV_HEADS
    view = tl.program_id(1)
    kv = view // TILES
    split = tl.program_id(2)
    i = tl.arange(0, M)
    row = tl.program_id(0) * ROWS + i // PACKED
    g = (view % TILES) * PACKED + i % PACKED
    real = (i < ROWS * PACKED) & (row < rows) & (g < GROUP)
    wait(EARLY)
    begin = tl.load(row_start + row, mask=real, other=0)
    real &= tl.load(row_start + row + 1, mask=real, other=0) - begin == 1
    leader = tl.max(tl.where(real, row, -1), 0)  # any live row: their first pages are the same
    if leader >= 0:
        h = kv * GROUP + g
        d = tl.arange(0, DP)
        inside = real[:, None] & (d < D)[None, :]
        queries = tl.load(
            q + (begin.to(tl.int64) * q_step + h * D)[:, None] + d[None, :], mask=inside, other=0.0
        )
        queries, scale1 = narrowed(queries, scale * k_scale, k_cache)
        table = tables + tl.load(owners + leader).to(tl.int64) * table_step
        length = tl.load(shared) * PAGE
        each = tl.cdiv(tl.cdiv(length, BLOCK), SPLITS) * BLOCK
        start = tl.minimum(split * each, length)
        stop = tl.minimum(start + each, length)
        whole = start + (stop - start) // BLOCK * BLOCK
        scale2 = scale1 * 1.4426950408889634
        m = tl.full((M,), LOWEST, tl.float32)
        w = tl.zeros((M,), tl.float32)
        acc = tl.zeros((M, DP), tl.float32)
        last = tl.zeros_like(i) + stop - 1  # to hide what is beyond the shared pages
        m, w, acc = attend(
            queries, m, w, acc, k_cache, v_cache, table, kv, start, whole, last, stop, page_step, place_step,
            head_step, scale1, scale2, softcap, BLOCK, PAGE, D, DP, 0, SOFTCAP, EXACT, False, STAGES,
        )  # fmt: skip
        m, w, acc = attend(
            queries, m, w, acc, k_cache, v_cache, table, kv, whole, stop, last, stop, page_step, place_step,
            head_step, scale1, scale2, softcap, BLOCK, PAGE, D, DP, 0, SOFTCAP, EXACT, True, STAGES,
        )  # fmt: skip
        some = w > 0
        acc = acc * (v_scale / tl.where(some, w, 1.0))[:, None]
        at = (split * rows + row).to(tl.int64) * HEADS + h
        tl.store(sums + at, tl.where(some, m * scale2 + tl.log2(tl.where(some, w, 1.0)), LOWEST), mask=real)
        tl.store(parts + at[:, None] * D + d[None, :], acc, mask=inside)


def shared_prefix(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, tables: Tensor, owners: Tensor, row_start: Tensor,
    shared: Tensor, config: PrefixConfig, *, scale: float, softcap: float = 0.0, k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> Prefix:  # fmt: skip
    """The parts of all rows with one token. Their contexts are longer than `shared` [1] int32 pages."""
    heads, d = q.shape[1:]
    page, kv_heads = k_cache.shape[1:3]
    rows, group = row_start.shape[0] - 1, heads // kv_heads
    packed = min(group, config.tile)
    tiles, per_tile = triton.cdiv(group, packed), config.tile // packed
    prefix = Prefix(
        torch.empty((config.splits, rows, heads, d), dtype=torch.float32, device=q.device),
        torch.empty((config.splits, rows, heads), dtype=torch.float32, device=q.device),
    )
    assert k_cache.stride() == v_cache.stride() and k_cache.stride(3) == 1
    assert q.stride(1) == d and q.stride(2) == 1
    first = early(q)
    _prefix_kernel[(triton.cdiv(rows, per_tile), kv_heads * tiles, config.splits)](
        q, k_cache, v_cache, *prefix, tables, owners, row_start, shared,
        rows, q.stride(0), tables.stride(0), *k_cache.stride()[:3], scale, k_scale, v_scale, softcap,
        HEADS=heads, KV_HEADS=kv_heads, TILES=tiles, ROWS=per_tile, PACKED=packed, M=config.tile, D=d,
        DP=triton.next_power_of_2(d), BLOCK=config.block, PAGE=page, SPLITS=config.splits,
        SOFTCAP=softcap > 0, EXACT=q.dtype == torch.float32, STAGES=config.stages, EARLY=first,
        num_warps=config.warps, launch_pdl=first,
    )  # fmt: skip
    return prefix
