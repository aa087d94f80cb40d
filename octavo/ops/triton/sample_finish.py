"""From what the tiles left to one token a row: greedy and untruncated rows."""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.triton.launch import start_next, wait
from octavo.ops.triton.sample_noise import BLOCK, better, block_scores, divided
from octavo.ops.triton.sample_scan import NOBODY, RANDOM, SEED, TEMPERATURE, float_of, long_of

GROUP = tl.constexpr(8)  # blocks looked into at once
CHUNK = tl.constexpr(2048)  # blocks whose bounds are read at once


@triton.jit
def greedy_of(values, tokens, row, TILES: tl.constexpr, TILES_UP: tl.constexpr):
    """The row's likeliest token, the lowest of equals."""
    tile = tl.arange(0, TILES_UP)
    value = tl.load(values + row * TILES + tile, mask=tile < TILES, other=float("-inf"))
    token = tl.load(tokens + row * TILES + tile, mask=tile < TILES, other=NOBODY)
    return tl.min(tl.where(value == tl.max(value, 0), token, NOBODY), 0)


@triton.jit
def collect(keep, items, found):
    """Writes the kept items to the list `found`, in order; returns how many."""
    place = tl.cumsum(keep.to(tl.int32), 0)
    tl.store(found + place - 1, items, mask=keep)
    tl.debug_barrier()  # other threads read them
    return tl.max(place, 0)


@triton.jit
def open_blocks(columns, found, least, blocks: tl.constexpr):
    """Lists the row's blocks whose bound reaches `least`, in order; returns how many."""
    lane = tl.arange(0, CHUNK)
    count = 0
    for start in range(0, blocks, CHUNK):
        bound = tl.load(columns + start + lane, mask=start + lane < blocks, other=float("-inf"))
        open = (bound >= least) & (bound > float("-inf"))
        place = count + tl.cumsum(open.to(tl.int32), 0)
        tl.store(found + place - 1, start + lane, mask=open)
        count = tl.max(place, 0)
    tl.debug_barrier()  # other threads read them
    return count


@triton.jit
def look_into(line, found, count, temperature, edge, last, position, seed, best, winner, VOCAB: tl.constexpr):
    """The best of (best, winner) and the tokens of `count` listed blocks, above `edge` or equal to it
    with an id up to `last`."""
    blocks: tl.constexpr = (VOCAB + 31) // 32
    lane = tl.arange(0, GROUP)
    at = 0
    while at < count:
        block = tl.load(found + at + lane, mask=at + lane < count, other=0)
        token = block[:, None] + tl.arange(0, BLOCK)[None, :] * blocks
        real = (at + lane < count)[:, None] & (token < VOCAB)
        y = divided(tl.load(line + token, mask=real, other=float("-inf")), temperature)
        real &= (y > edge) | ((y == edge) & (token <= last))
        score = block_scores(y, token, block, blocks, position, seed)
        score = tl.where(real & (y > float("-inf")), score, float("-inf"))
        top = tl.max(tl.max(score, 1), 0)
        first = tl.min(tl.min(tl.where(score == top, token, NOBODY), 1), 0)
        best, winner = better(top, first, best, winner)
        at += GROUP
    return best, winner


@triton.jit
def finish(
    logits, stride, owners, positions, words, columns, values, tokens, found, out,
    VOCAB: tl.constexpr, TILES: tl.constexpr, TILES_UP: tl.constexpr, MODE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Grid (rows)."""
    start_next(EARLY)
    wait(EARLY)
    blocks: tl.constexpr = (VOCAB + 31) // 32
    row = tl.program_id(0).to(tl.int64)
    temperature = 0.0
    slot = row
    if MODE == RANDOM:
        slot = tl.load(owners + row).to(tl.int64)
        temperature = float_of(words, slot, TEMPERATURE)
    if temperature == 0.0:
        tl.store(out + row, greedy_of(values, tokens, row, TILES, TILES_UP))
    else:
        tile = tl.arange(0, TILES_UP)
        sure = tl.max(tl.load(values + row * TILES + tile, mask=tile < TILES, other=float("-inf")), 0)
        mine = found + row * blocks
        count = open_blocks(columns + row * blocks, mine, sure, blocks)
        nothing, nobody = tl.full((), float("-inf"), tl.float64), tl.full((), NOBODY, tl.int32)
        best, winner = look_into(
            logits + row * stride, mine, count, temperature, float("-inf"), VOCAB,
            tl.load(positions + row), long_of(words, slot, SEED), nothing, nobody, VOCAB,
        )  # fmt: skip
        tl.store(out + row, tl.where(best > nothing, winner, 0))
