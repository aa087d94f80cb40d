"""The end of a step in one launch: what the slots know afterwards, what the host is told.

The semantics of runner/commit.py without drafts. Several rows never share a slot, except rows of no
tokens, which write nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

_ROWS = 32  # of one program
_ENDS = 8  # ids compared at once
EOS, STOP, LENGTH = tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)  # as in core/messages.py


class SlotTables(NamedTuple):
    """The device's truth about its slots: [slots] unless said. Ids of `eos` and `stop` come first in
    their rows, -1 behind them."""

    history: Tensor  # int32 [slots, length]
    known: Tensor  # int32 or int64, as the next four
    computed: Tensor
    earliest: Tensor  # first position an eos or stop id ends the request at
    last: Tensor  # last position there is a token for
    samples: Tensor  # bool
    done: Tensor  # bool
    eos: Tensor  # int32 [slots, n], n a multiple of 8
    stop: Tensor  # int32 [slots, n]


@triton.jit
def _among(token, table, slot, live, WIDTH: tl.constexpr, ENDS: tl.constexpr):
    """Whether each token [r] is listed in its slot's line of the table."""
    lane = tl.arange(0, ENDS)
    found = tl.zeros_like(token)
    at = 0
    more = 1
    while (at < WIDTH) & (more > 0):
        ids = tl.load(table + slot[:, None] * WIDTH + at + lane[None, :], mask=live[:, None], other=-1)
        found = tl.maximum(found, tl.max((ids == token[:, None]).to(tl.int32), 1))
        more = tl.max(tl.max((ids >= 0).to(tl.int32) * (lane == ENDS - 1)[None, :].to(tl.int32), 1), 0)
        at += ENDS
    return found > 0


@triton.jit
def _commit(
    tokens, at, owners, row_start, history, length, known, computed, earliest, last, samples, done, eos, stop,
    out, rows, EOS_WIDTH: tl.constexpr, STOP_WIDTH: tl.constexpr, ROWS: tl.constexpr, ENDS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = row < rows
    count = tl.load(row_start + row + 1, mask=real, other=0) - tl.load(row_start + row, mask=real, other=0)
    live = real & (count > 0)
    slot = tl.load(owners + row, mask=live, other=0).to(tl.int64)
    place = tl.load(at + row, mask=live, other=-1)
    reach = tl.load(computed + slot, mask=live, other=0) + count
    upto = tl.load(known + slot, mask=live, other=0)
    may = tl.load(samples + slot, mask=live, other=0) != 0
    sampled = live & may & (place >= 0) & (reach == upto)
    token = tl.load(tokens + place, mask=sampled, other=0)
    ends = sampled & (upto >= tl.load(earliest + slot, mask=live, other=0))
    full = sampled & (upto >= tl.load(last + slot, mask=live, other=0))
    why = tl.where(full | (live & ~may & (reach >= upto)), LENGTH, 0)
    why = tl.where(_among(token, stop, slot, ends, STOP_WIDTH, ENDS) & ends, STOP, why)
    why = tl.where(_among(token, eos, slot, ends, EOS_WIDTH, ENDS) & ends, EOS, why)
    tl.store(history + slot * length + upto, token, mask=sampled & (upto < length))
    tl.store(known + slot, upto + 1, mask=sampled)
    tl.store(computed + slot, reach, mask=live)
    tl.store(done + slot, 1, mask=live & (why != 0))
    tl.store(out + row * 3, token, mask=real)
    tl.store(out + row * 3 + 1, sampled.to(tl.int32), mask=real)
    tl.store(out + row * 3 + 2, why, mask=real)


def commit(
    tokens: Tensor, at: Tensor, owners: Tensor, row_start: Tensor, slots: SlotTables, out: Tensor
) -> None:
    """Writes out [rows, 3] int32: token, how many count (0 or 1), why the row ended.

    tokens [m] int32 as sampled; at [rows] int32: a row's place among them, -1 where the plan asks for no
    token; owners [rows] int32; row_start [rows + 1] int32: how many positions each row computed.
    """
    rows = len(owners)
    assert slots.eos.shape[1] % _ENDS == 0 and slots.stop.shape[1] % _ENDS == 0, "whole groups of ids"
    _commit[(triton.cdiv(rows, _ROWS),)](
        tokens, at, owners, row_start, slots.history, slots.history.stride(0), slots.known, slots.computed,
        slots.earliest, slots.last, slots.samples, slots.done, slots.eos, slots.stop, out, rows,
        EOS_WIDTH=slots.eos.shape[1], STOP_WIDTH=slots.stop.shape[1], ROWS=_ROWS, ENDS=_ENDS, num_warps=1,
    )  # fmt: skip
