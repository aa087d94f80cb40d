"""Rows that are cut to many tokens, or not at all while others of the batch are.

Several launches of many programs a row search the edge, a round each (sample_sift.py). The last launch,
of one program a row, does what rounds are left, and then draws: the noise blocks' largest logits tell
which few blocks can hold the winner. Rows that are done cost a program's start.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.triton.launch import start_next, wait
from octavo.ops.triton.sample_edge import float_at
from octavo.ops.triton.sample_finish import CHUNK, look_into, open_blocks
from octavo.ops.triton.sample_noise import BLOCKS, NOBODY, divided, margin, random, rough_exponential
from octavo.ops.triton.sample_plan import DONE, EDGE, LAST, PIVOTS, PLAN, SEARCH
from octavo.ops.triton.sample_scan import SEED, TEMPERATURE, float_of, long_of
from octavo.ops.triton.sample_sift import sift


@triton.jit
def _bounds(columns, value, temperature, position, seed, blocks: tl.constexpr):
    """Turns the blocks' largest logits into what no score of theirs exceeds, those below `value` into
    -inf; returns the block where that is highest."""
    lane = tl.arange(0, CHUNK)
    best, where = tl.full([CHUNK], float("-inf"), tl.float32), lane
    for start in range(0, blocks, CHUNK):
        column = start + lane
        tops = tl.load(columns + column, mask=column < blocks, other=float("-inf"))
        tops = divided(tops, temperature)
        high, low = random(BLOCKS, column, position, seed)
        bound = tops - tl.log(rough_exponential(high, low) * 0.03125)
        bound = tl.where((tops >= value) & (tops > float("-inf")), bound + margin(bound), float("-inf"))
        tl.store(columns + column, bound, mask=column < blocks)
        best, where = tl.where(bound > best, bound, best), tl.where(bound > best, column, where)
    return tl.min(tl.where(best == tl.max(best, 0), where, NOBODY), 0)


@triton.jit
def _draw(line, columns, found, temperature, edge, last, position, seed, VOCAB: tl.constexpr):
    blocks: tl.constexpr = (VOCAB + 31) // 32
    value = float_at(edge.to(tl.int32))
    best, winner = tl.full((), float("-inf"), tl.float64), tl.full((), NOBODY, tl.int32)
    first = _bounds(columns, value, temperature, position, seed, blocks)
    tl.store(found, first)
    tl.debug_barrier()
    count = 1
    for turn in range(2):
        if turn == 1:
            count = open_blocks(columns, found, best, blocks)
        best, winner = look_into(
            line, found, count, temperature, value, last, position, seed, best, winner, VOCAB
        )
        tl.debug_barrier()
    return tl.where(best > float("-inf"), winner, 0)


@triton.jit(do_not_specialize=["draws"])
def wide(
    logits, stride, owners, positions, words, columns, found, listed, ids, plans, state, shares, arrived,
    sizes, out, draws,
    VOCAB: tl.constexpr, STEP: tl.constexpr, LIST: tl.constexpr, PARTS_UP: tl.constexpr, REAL: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Grid (programs of a row, rows). With `draws` the row is finished; then its program is one."""
    start_next(EARLY)
    wait(EARLY)
    blocks: tl.constexpr = (VOCAB + 31) // 32
    part, parts, row = tl.program_id(0), tl.num_programs(0), tl.program_id(1).to(tl.int64)
    todo = tl.load(state + row)
    if (todo == SEARCH) | ((todo != DONE) & (draws != 0)):
        slot = tl.load(owners + row).to(tl.int64)
        temperature = float_of(words, slot, TEMPERATURE)
        line, plan = logits + row * stride, plans + row * PLAN
        more = todo == SEARCH
        while more:
            sift(
                line, temperature, plan, state + row, shares + row * parts * PIVOTS, arrived + row,
                sizes + row, listed + row * LIST, ids + row * LIST, part, parts,
                VOCAB, STEP, LIST, PARTS_UP, REAL,
            )  # fmt: skip
            more = (draws != 0) & (tl.load(state + row, volatile=True) == SEARCH)
        if draws != 0:
            drawn = _draw(
                line, columns + row * blocks, found + row * blocks, temperature, tl.load(plan + EDGE),
                tl.load(plan + LAST).to(tl.int32), tl.load(positions + row), long_of(words, slot, SEED),
                VOCAB,
            )  # fmt: skip
            tl.store(out + row, drawn)
