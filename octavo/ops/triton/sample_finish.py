"""From what the tiles left to one token a row: greedy and untruncated rows."""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.triton.sample_noise import BLOCK, NOBODY, better, block_scores, divided

GROUP = tl.constexpr(8)  # blocks looked into at once
CHUNK = tl.constexpr(2048)  # blocks whose bounds are read at once


@triton.jit
def greedy_of(values, tokens, row, TILES: tl.constexpr, TILES_UP: tl.constexpr):
    """The row's likeliest token, the lowest of equals."""
    tile = tl.arange(0, TILES_UP)
    at, real = row * TILES + tile, tile < TILES
    value = tl.load(values + at, mask=real, other=float("-inf"), cache_modifier=".cg")
    token = tl.load(tokens + at, mask=real, other=NOBODY, cache_modifier=".cg")
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
        real = start + lane < blocks
        bound = tl.load(columns + start + lane, mask=real, other=float("-inf"), cache_modifier=".cg")
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
    line, columns, values, found, temperature, position, seed, VOCAB: tl.constexpr, TILES: tl.constexpr,
    TILES_UP: tl.constexpr,
):  # fmt: skip
    """The token of an untruncated row all of whose tiles are done; all pointers are the row's."""
    blocks: tl.constexpr = (VOCAB + 31) // 32
    tile = tl.arange(0, TILES_UP)
    sure = tl.load(values + tile, mask=tile < TILES, other=float("-inf"), cache_modifier=".cg")
    count = open_blocks(columns, found, tl.max(sure, 0), blocks)
    nothing, nobody = tl.full((), float("-inf"), tl.float64), tl.full((), NOBODY, tl.int32)
    best, winner = look_into(
        line, found, count, temperature, float("-inf"), VOCAB, position, seed, nothing, nobody, VOCAB
    )
    return tl.where(best > nothing, winner, 0)
