"""The device's side of a step: writes of the host into the slots, and the step's inputs from the slots.

One launch each. Everything is int32 words of one arena (runner/cuda/state.py), so that a plan's
changes are one copy and one scatter, whatever they are. Knows no plan and no model.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

PIECE = 1024  # words one program moves
TOKENS = 128  # tokens one program lays out


@triton.jit
def _scatter(arena, staging, PIECE: tl.constexpr):
    entry = staging + 3 * tl.program_id(0)
    to, source, count = tl.load(entry), tl.load(entry + 1), tl.load(entry + 2)
    i = tl.arange(0, PIECE)
    words = tl.load(staging + source + i, mask=i < count)
    tl.store(arena + to.to(tl.int64) + i, words, mask=i < count)


def scatter(arena: Tensor, staging: Tensor, segments: int) -> None:
    """Writes segments into the arena: `staging` [words] int32 begins with (to, source, count) of each,
    `source` counting from its own start and `count` at most PIECE."""
    _scatter[(segments,)](arena, staging, PIECE=PIECE)


@triton.jit(do_not_specialize=["rows"])
def _lay_out_rows(
    slot, count, logits, skip,  # of the plan [rows]
    computed, known, done, samples,  # of the slots [slots]
    row_start, owners, start, live, logits_at, sampled, place,  # outputs [rows]
    rows, R: tl.constexpr,
):  # fmt: skip
    r = tl.arange(0, R)
    inside = r < rows
    s = tl.load(slot + r, mask=inside, other=0)
    n = tl.load(count + r, mask=inside, other=0)
    n = tl.where(tl.load(done + s, mask=inside, other=1) != 0, 0, n)
    at = tl.load(computed + s, mask=inside, other=0) + tl.load(skip + r, mask=inside, other=0)
    at = tl.where(n > 0, at, 0)
    end = at + n
    ends = tl.cumsum(n, 0)
    first = ends - n
    final = tl.load(known + s, mask=inside, other=-1)
    wants = (n > 0) & (tl.load(samples + s, mask=inside, other=0) != 0)
    wants = wants & (tl.load(logits + r, mask=inside, other=0) > 0) & (end == final)
    tl.store(row_start + 1 + r, ends, mask=inside)
    tl.store(row_start + r, tl.zeros([R], tl.int32), mask=r == 0)
    tl.store(owners + r, s, mask=inside)
    tl.store(start + r, at, mask=inside)
    tl.store(live + r, n, mask=inside)
    tl.store(logits_at + r, tl.where(n > 0, first + n - 1, 0).to(tl.int64), mask=inside)
    tl.store(sampled + r, wants.to(tl.int32), mask=inside)
    tl.store(place + r, end.to(tl.int64), mask=inside)


def lay_out_rows(plan: Tensor, slots: Tensor, out: tuple[Tensor, ...], rows: int) -> None:
    """plan [4, most rows] int32 = slot, count, logits, skip; slots [4 or more, slots] int32 = computed,
    known, done, samples.

    Fills row_start [rows + 1], owners, start, live (tokens a row really computes), logits_at,
    sampled (0 or 1), place (where a sampled token goes); all [rows].
    """
    wide = max(16, triton.next_power_of_2(plan.shape[1]))  # one program for all sizes: compiled once
    _lay_out_rows[(1,)](
        *plan.unbind(0), *slots[:4].unbind(0), *out, rows, R=wide, num_warps=4 if wide <= 256 else 8
    )  # fmt: skip


@triton.jit(do_not_specialize=["count", "rows", "steps"])
def _lay_out_tokens(
    history, history_stride, table, table_stride, row_start, owners, start, live,
    tokens, positions, slots, lengths, count, rows, steps, page: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    inside = t < count
    real = inside & (t < tl.load(row_start + rows))
    low = tl.zeros([TOKENS], tl.int32)  # the last row that begins at or before t
    high = tl.zeros([TOKENS], tl.int32) + rows
    for _ in range(steps):
        middle = (low + high) // 2
        later = tl.load(row_start + middle, mask=real, other=0) > t
        high = tl.where(later, middle, high)
        low = tl.where(later, low, middle)
    first = tl.load(row_start + low, mask=real, other=0)
    position = tl.load(start + low, mask=real, other=0) + t - first
    owner = tl.load(owners + low, mask=real, other=0).to(tl.int64)
    token = tl.load(history + owner * history_stride + position, mask=real, other=0)
    block = tl.load(table + owner * table_stride + position // page, mask=real, other=0)
    tl.store(tokens + t, token.to(tl.int64), mask=inside)
    tl.store(positions + t, tl.where(real, position, 0).to(tl.int64), mask=inside)
    tl.store(slots + t, tl.where(real, block.to(tl.int64) * page + position % page, 0), mask=inside)
    row = inside & (t < rows)
    n = tl.load(live + t, mask=row, other=0)
    tl.store(lengths + t, tl.load(start + t, mask=row, other=0) + n, mask=row)


def lay_out_tokens(
    history: Tensor,
    table: Tensor,
    page: int,
    rows: tuple[Tensor, Tensor, Tensor, Tensor],
    out: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    """Token ids, positions and places of a step, and the context lengths of its rows, for one cache group.

    `history` [slots, length] and `table` [slots, pages] are the slots'; `rows` = row_start [rows + 1],
    owners, start, live [rows]; `out` = tokens, positions, slots [n] int64, lengths [rows] int32 with
    n >= rows. Padding becomes token 0 at position 0 of page 0.
    """
    count, many = out[0].shape[0], rows[1].shape[0]
    assert count >= many, "a step is padded to a token a row"
    _lay_out_tokens[(triton.cdiv(count, TOKENS),)](
        history, history.stride(0), table, table.stride(0), *rows, *out, count, many,
        many.bit_length(), page, TOKENS=TOKENS,
    )  # fmt: skip
