"""Rows that are cut to few tokens, which are nearly all that are cut: one program finishes the row.

The largest logit of each noise block says which blocks can hold a token of the nucleus: at least
k tokens are above the k-th largest of them, and the mass of those above a value is at least the mass
of the blocks' largest. Only those blocks are read again; their tokens go to a list, which is cut
exactly and drawn from. A row that does not fit the list is left to sample_wide.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.triton.launch import start_next, wait
from octavo.ops.triton.sample_edge import LOWEST, cut_list, highest, key_of, stays
from octavo.ops.triton.sample_finish import collect, greedy_of
from octavo.ops.triton.sample_noise import BLOCK, NOBODY, better, divided, token_scores
from octavo.ops.triton.sample_plan import DONE, PLAN, READY, SEARCH, begin, cut_at
from octavo.ops.triton.sample_scan import (
    GAP,
    SEED,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    WORDS,
    float_of,
    long_of,
)

COARSE = tl.constexpr(1 << 16)  # the limit for blocks need not be sharp: 1/128 of its value
SPARE = tl.constexpr(1.0001)  # and float32 sums may be wrong a little


@triton.jit
def cuts(words, slot, VOCAB: tl.constexpr):
    """(top_k, top_p, gap): 0, 1 and -inf where they are off."""
    top_k = tl.load(words + slot * WORDS + TOP_K)
    top_k = tl.where(top_k < VOCAB, top_k, 0)
    return top_k, long_of(words, slot, TOP_P).to(tl.float64, bitcast=True), float_of(words, slot, GAP)


@triton.jit
def whole(values, sums, row, peak, TILES: tl.constexpr, TILES_UP: tl.constexpr):
    """The softmax's denominator, relative to the peak: float64."""
    tile = tl.arange(0, TILES_UP)
    top = tl.load(values + row * TILES + tile, mask=tile < TILES, other=float("-inf"))
    part = tl.load(sums + row * TILES + tile, mask=tile < TILES, other=0.0)
    return tl.sum(tl.where(top > float("-inf"), part * tl.exp(top - peak), 0.0).to(tl.float64), 0)


@triton.jit
def _limit(tops, peak, floor, top_k, top_p, total, low, high):
    """A key that the nucleus does not go below. `total` below 0: not known."""
    keys = key_of(tops)
    limit = low
    if top_k > 0:
        limit = highest(keys, (tops >= floor).to(tl.float32), top_k.to(tl.float32), low, high, COARSE)
    elif total >= 0.0:
        mass = tl.where(tops > float("-inf"), tl.exp(tops - peak), 0.0)
        limit = highest(keys, mass, (top_p * total * SPARE).to(tl.float32), low, high, COARSE)
    return limit


@triton.jit
def _list_tokens(
    line, temperature, found, count, limit, listed, ids, VOCAB: tl.constexpr, LIST: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """Lists the tokens of `count` blocks that reach the limit; how many there are, also where they do not
    fit."""
    blocks: tl.constexpr = (VOCAB + 31) // 32
    lane = tl.arange(0, GROUP * BLOCK)
    size = tl.full((), 0, tl.int32)
    at = 0
    while at < count:
        which = at + lane // BLOCK
        block = tl.load(found + which, mask=which < count, other=0)
        token = block + (lane % BLOCK) * blocks
        real = (which < count) & (token < VOCAB)
        y = divided(tl.load(line + token, mask=real, other=float("-inf")), temperature)
        real &= (y > float("-inf")) & (key_of(y) >= limit.to(tl.int32))
        place = size + tl.cumsum(real.to(tl.int32), 0) - 1
        fits = real & (place < LIST)
        tl.store(listed + place, y, mask=fits)
        tl.store(ids + place, token, mask=fits)
        size = tl.maximum(size, tl.max(place, 0) + 1)
        at += GROUP
    tl.debug_barrier()
    return size


@triton.jit
def _draw(listed, ids, size, edge, last, position, seed, VOCAB: tl.constexpr, CHUNK: tl.constexpr):
    blocks: tl.constexpr = (VOCAB + 31) // 32
    best, winner = tl.full((), float("-inf"), tl.float64), tl.full((), NOBODY, tl.int32)
    lane = tl.arange(0, CHUNK)
    at = 0
    while at < size:
        real = at + lane < size
        y = tl.load(listed + at + lane, mask=real, other=float("-inf"))
        token = tl.load(ids + at + lane, mask=real, other=0)
        real &= stays(key_of(y), token, edge, last)
        score = tl.where(real, token_scores(y, token, blocks, position, seed), float("-inf"))
        top = tl.max(score, 0)
        best, winner = better(top, tl.min(tl.where(score == top, token, NOBODY), 0), best, winner)
        at += CHUNK
    return tl.where(best > float("-inf"), winner, 0)


@triton.jit
def _leave(plan, state, top_k, top_p, gap, peak, total, low, high, VOCAB: tl.constexpr):
    """The row's nucleus is too large for one program."""
    if (top_k == 0) & (top_p >= 1.0):  # min_p alone, whose edge is known, or nothing
        cut_at(plan, key_of(tl.maximum(peak + gap, LOWEST)).to(tl.int64), tl.full((), VOCAB, tl.int32))
        tl.store(state, READY)
    else:
        begin(plan, top_k, top_p, peak, total, low, high, VOCAB)
        tl.store(state, SEARCH)


@triton.jit
def narrow(
    logits, stride, owners, positions, words, columns, values, tokens, sums, found, listed, ids, plans, state,
    out,
    VOCAB: tl.constexpr, TILES: tl.constexpr, TILES_UP: tl.constexpr, WIDTH: tl.constexpr,
    MOST: tl.constexpr, LIST: tl.constexpr, GROUP: tl.constexpr, CHUNK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Grid (rows). At most MOST blocks are listed for a row, and LIST tokens."""
    start_next(EARLY)
    wait(EARLY)
    blocks: tl.constexpr = (VOCAB + 31) // 32
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(owners + row).to(tl.int64)
    temperature = float_of(words, slot, TEMPERATURE)
    top_k, top_p, gap = cuts(words, slot, VOCAB)
    tile, column = tl.arange(0, TILES_UP), tl.arange(0, WIDTH)
    peak = tl.max(tl.load(values + row * TILES + tile, mask=tile < TILES, other=float("-inf")), 0)
    plan = plans + row * PLAN
    if temperature == 0.0:
        tl.store(out + row, greedy_of(values, tokens, row, TILES, TILES_UP))
        tl.store(state + row, DONE)
    elif peak == float("-inf"):
        tl.store(out + row, 0)
        tl.store(state + row, DONE)
    else:
        floor = tl.maximum(peak + gap, LOWEST)
        total = tl.full((), -1.0, tl.float64)
        if (top_k == 0) & (gap == float("-inf")):
            total = whole(values, sums, row, peak, TILES, TILES_UP)
        low, high = key_of(floor).to(tl.int64), key_of(peak).to(tl.int64) + 1
        limit = low
        size = tl.full((), LIST + 1, tl.int32)
        list_at, ids_at = listed + row * LIST, ids + row * LIST
        if (top_k > 0) | (top_p < 1.0) | (gap > float("-inf")):
            tops = tl.load(columns + row * blocks + column, mask=column < blocks, other=float("-inf"))
            tops = divided(tops, temperature)
            limit = _limit(tops, peak, floor, top_k, top_p, total, low, high)
            mine = found + row * blocks
            count = collect((key_of(tops) >= limit.to(tl.int32)) & (tops > float("-inf")), column, mine)
            if count <= MOST:
                line = logits + row * stride
                size = _list_tokens(
                    line, temperature, mine, count, limit, list_at, ids_at, VOCAB, LIST, GROUP
                )
        if size <= LIST:
            at = tl.arange(0, LIST)
            y = tl.load(list_at + at, mask=at < size, other=float("-inf"))
            token = tl.load(ids_at + at, mask=at < size, other=0)
            nothing = tl.full((), 0.0, tl.float64)
            goal = tl.where(total < 0.0, -1.0, top_p * total)
            edge, last, _ = cut_list(
                y, token, at < size, top_k, top_p, goal, nothing, peak, limit, high, VOCAB
            )
            position, seed = tl.load(positions + row), long_of(words, slot, SEED)
            tl.store(out + row, _draw(list_at, ids_at, size, edge, last, position, seed, VOCAB, CHUNK))
            tl.store(state + row, DONE)
        else:
            _leave(plan, state + row, top_k, top_p, gap, peak, total, limit, high, VOCAB)
