"""The step's work list for decoding: who reads which keys, made once on the device.

All rows that decode are laid end to end, in tiles of BLOCK keys, and cut into equal spans, one for each
program of the persistent grid: the balance does not depend on how long the rows are. A row costs its
tiles and EXTRA more for its beginning and end. A span holds whole rows, and at its ends parts of rows
that other programs also hold; those are merged (attention_decode.py).

An item is FIELDS int32. Item p (p < programs) is what program p starts with, item programs + r is row r
from its first tile on; `next` leads from one to the other, -1 ends the program.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

FIELDS = tl.constexpr(16)
SLOT = tl.constexpr(0)  # of the page table
TOKEN = tl.constexpr(1)
ROW = tl.constexpr(2)
LOW = tl.constexpr(3)  # first position to be read
LENGTH = tl.constexpr(4)
BEGIN = tl.constexpr(5)  # first tile of this item, absolute; none where BEGIN >= END
END = tl.constexpr(6)
FIRST = tl.constexpr(7)  # the first program that holds a part of this row
PARTS = tl.constexpr(8)  # how many do
NEXT = tl.constexpr(9)


@triton.jit
def _item(items, at, mask, slot, token, row, low, length, begin, end, first, parts, after):
    to = items + at * FIELDS
    tl.store(to + SLOT, slot, mask=mask)
    tl.store(to + TOKEN, token, mask=mask)
    tl.store(to + ROW, row, mask=mask)
    tl.store(to + LOW, low, mask=mask)
    tl.store(to + LENGTH, length, mask=mask)
    tl.store(to + BEGIN, begin, mask=mask)
    tl.store(to + END, end, mask=mask)
    tl.store(to + FIRST, first, mask=mask)
    tl.store(to + PARTS, parts, mask=mask)
    tl.store(to + NEXT, after, mask=mask)


@triton.jit
def _reach(lengths, shared, r, live, BLOCK: tl.constexpr, PAGE: tl.constexpr, WINDOW: tl.constexpr,
           SHARED: tl.constexpr):  # fmt: skip
    """(length, first position to be read, its tile, tile after the last) of rows r."""
    length = tl.load(lengths + r, mask=live, other=0)
    low = tl.zeros_like(length)
    if WINDOW > 0:
        low = tl.maximum(length - WINDOW, 0)
    if SHARED:
        low = tl.maximum(low, tl.minimum(tl.load(shared) * PAGE, length - 1))
    return length, low, low // BLOCK, tl.cdiv(length, BLOCK)


@triton.jit(do_not_specialize=["rows", "programs"])
def _work_kernel(
    lengths, row_start, owners, shared, items, rows, programs,
    R: tl.constexpr, P: tl.constexpr, BLOCK: tl.constexpr, EXTRA: tl.constexpr, LEAST: tl.constexpr,
    PAGE: tl.constexpr, WINDOW: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
    r = tl.arange(0, R)
    live = r < rows
    token = tl.load(row_start + r, mask=live, other=0)
    live &= tl.load(row_start + r + 1, mask=live, other=0) - token == 1
    length, low, first_tile, last_tile = _reach(lengths, shared, r, live, BLOCK, PAGE, WINDOW, SHARED)
    tiles = tl.where(live, last_tile - first_tile, 0)
    cost = tl.where(tiles > 0, tiles + EXTRA, 0)
    ends = tl.cumsum(cost, 0)
    total = tl.sum(cost, 0)
    span = tl.maximum(tl.cdiv(total, programs), LEAST)
    block = tl.program_id(0)
    if block == 0:
        body = ends - tiles  # where the row's first tile lies
        limit = ((ends - cost) // span + 1) * span  # end of the span the row begins in
        after = tl.where(ends < tl.minimum(limit, total), programs + r + 1, -1)
        first = body // span
        parts = tl.where(tiles > 0, (ends - 1) // span - first + 1, 0)
        end = first_tile + tl.minimum(limit - body, tiles)
        slot = tl.load(owners + r, mask=live, other=0)
        _item(
            items, programs + r, r < rows, slot, token, r, low, length, first_tile, end, first, parts, after
        )

    p = block * P + tl.arange(0, P)
    at = p * span
    row = tl.sum((ends[None, :] <= at[:, None]).to(tl.int32), 1)
    busy = at < total
    mine = row[:, None] == r[None, :]
    p_end = tl.sum(tl.where(mine, ends[None, :], 0), 1)
    p_tiles = tl.sum(tl.where(mine, tiles[None, :], 0), 1)
    p_body = p_end - p_tiles
    p_length, p_low, p_first, _ = _reach(lengths, shared, row, busy, BLOCK, PAGE, WINDOW, SHARED)
    p_token = tl.load(row_start + row, mask=busy, other=0)
    p_slot = tl.load(owners + row, mask=busy, other=0)
    begin = tl.where(busy, p_first + tl.maximum(at - p_body, 0), 0)
    end = tl.where(busy, p_first + tl.minimum(at + span - p_body, p_tiles), 0)
    after = tl.where(busy & (p_end < tl.minimum(at + span, total)), programs + row + 1, -1)
    first = p_body // span
    parts = (p_end - 1) // span - first + 1
    _item(items, p, p < programs, p_slot, p_token, row, p_low, p_length, begin, end, first, parts, after)


def make_work(
    lengths: Tensor, row_start: Tensor, owners: Tensor, shared: Tensor | None, *,
    programs: int, block: int, page: int, window: int = 0, extra: int = 1, least: int = 2,
) -> Tensor:  # fmt: skip
    """[programs + rows, FIELDS] int32. `least`: the smallest span, in tiles; more than `extra`."""
    assert least > extra
    rows = lengths.shape[0]
    items = torch.empty((programs + rows, FIELDS.value), dtype=torch.int32, device=lengths.device)
    wide = triton.next_power_of_2(max(rows, 16))
    many = 16 if wide <= 512 else 8
    _work_kernel[(triton.cdiv(programs, many),)](
        lengths, row_start, owners, lengths if shared is None else shared, items, rows, programs,
        R=wide, P=many, BLOCK=block, EXTRA=extra, LEAST=least, PAGE=page, WINDOW=window,
        SHARED=shared is not None, num_warps=4,
    )  # fmt: skip
    return items
