"""Rows that are cut to many tokens, or not at all while others of the batch are.

One program searches the edge in whole passes over the row, sixteen values at a time, and then draws:
the noise blocks' largest logits tell which few blocks can hold the winner.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.triton.sample_edge import LOWEST, float_at, how_many, key_of
from octavo.ops.triton.sample_finish import collect, look_into
from octavo.ops.triton.sample_narrow import DONE, SEARCH, cuts, whole
from octavo.ops.triton.sample_noise import BLOCKS, divided, margin, random, rough_exponential
from octavo.ops.triton.sample_scan import NOBODY, SEED, TEMPERATURE, float_of, long_of

PIVOTS = tl.constexpr(16)


@triton.jit
def _weigh(line, temperature, peak, pivots, by_mass, VOCAB: tl.constexpr, STEP: tl.constexpr):
    """[16] float64: how many tokens, or how much probability, each pivot has at or above it."""
    lane = tl.arange(0, STEP)
    total = tl.zeros([PIVOTS, STEP], tl.float32)
    for start in range(0, VOCAB, STEP):
        real = start + lane < VOCAB
        y = divided(tl.load(line + start + lane, mask=real, other=float("-inf")), temperature)
        weight = tl.where(y > float("-inf"), tl.where(by_mass, tl.exp(y - peak), 1.0), 0.0)
        total += tl.where(key_of(y)[None, :] >= pivots[:, None], weight[None, :], 0.0)
    return tl.sum(total.to(tl.float64), 1)


@triton.jit
def _between(low, high):
    """[16] keys in (low, high), evenly spread, with repeats where there are fewer."""
    step = tl.arange(0, PIVOTS).to(tl.int64) + 1
    return low + tl.maximum((high - low) * step // (PIVOTS + 1), 1)


@triton.jit
def _search(line, temperature, peak, by_mass, target, low, high, VOCAB: tl.constexpr, STEP: tl.constexpr):
    """(key, over): the highest key from which on `target` is reached, or `low`, and the weight above."""
    over = tl.full((), 0.0, tl.float64)
    while high - low > 1:
        pivots = _between(low, high)
        weight = _weigh(line, temperature, peak, pivots.to(tl.int32), by_mass, VOCAB, STEP)
        reached = weight >= target
        low = tl.max(tl.where(reached, pivots, low), 0)
        next = tl.min(tl.where(reached, high, pivots), 0)
        over = tl.where(next < high, tl.max(tl.where(reached, 0.0, weight), 0), over)
        high = next
    return low, over


@triton.jit
def _equal(line, temperature, key, most, VOCAB: tl.constexpr, STEP: tl.constexpr):
    """How many tokens up to id `most` have exactly this key."""
    lane = tl.arange(0, STEP)
    total = tl.zeros([STEP], tl.int32)
    for start in range(0, VOCAB, STEP):
        token = start + lane
        real = (token < VOCAB) & (token <= most)
        y = divided(tl.load(line + token, mask=real, other=float("-inf")), temperature)
        total += (real & (key_of(y) == key.to(tl.int32))).to(tl.int32)
    return tl.sum(total, 0)


@triton.jit
def _last(line, temperature, key, wanted, equal, VOCAB: tl.constexpr, STEP: tl.constexpr):
    """The id up to which `wanted` of the `equal` tokens at the edge stay; VOCAB where all do."""
    low, high = tl.full((), -1, tl.int32), tl.full((), VOCAB, tl.int32)
    if equal > wanted:
        while high - low > 1:
            middle = (low + high) // 2
            enough = _equal(line, temperature, key, middle, VOCAB, STEP) >= wanted
            low, high = tl.where(enough, low, middle), tl.where(enough, middle, high)
    return high


@triton.jit
def _cut(line, temperature, peak, top_k, top_p, total, low, high, VOCAB: tl.constexpr, STEP: tl.constexpr):
    """(edge, last), as cut_list (sample_edge.py)."""
    edge, last = low, tl.full((), VOCAB, tl.int32)
    equal, over = tl.full((), VOCAB, tl.int32), tl.full((), 0.0, tl.float64)
    if top_k > 0:
        edge, over = _search(line, temperature, peak, False, top_k.to(tl.float64), low, high, VOCAB, STEP)
        equal = _equal(line, temperature, edge, VOCAB, VOCAB, STEP)
        wanted = tl.minimum(top_k - over.to(tl.int32), equal)
        last = _last(line, temperature, edge, wanted, equal, VOCAB, STEP)
        equal = wanted
    if top_p < 1.0:
        if total < 0.0:
            inside = tl.where(top_k > 0, edge + 1, low) + tl.zeros([PIVOTS], tl.int64)
            total = tl.max(_weigh(line, temperature, peak, inside.to(tl.int32), True, VOCAB, STEP), 0)
            at_edge = tl.exp(float_at(edge.to(tl.int32)) - peak).to(tl.float64)
            total += tl.where(top_k > 0, equal.to(tl.float64) * at_edge, 0.0)
        cut_before = edge
        edge, over = _search(line, temperature, peak, True, top_p * total, edge, high, VOCAB, STEP)
        if (edge > cut_before) | (top_k == 0):
            equal = _equal(line, temperature, edge, VOCAB, VOCAB, STEP)
        each = tl.exp(float_at(edge.to(tl.int32)) - peak).to(tl.float64)
        wanted = how_many(top_p * total, over, each, equal)
        have = _equal(line, temperature, edge, VOCAB, VOCAB, STEP)
        last = _last(line, temperature, edge, wanted, have, VOCAB, STEP)
    return edge, last


@triton.jit
def _first_look(bound, column, found):
    """Lists the block with the highest bound alone."""
    tl.store(found, tl.min(tl.where(bound == tl.max(bound, 0), column, NOBODY), 0))
    tl.debug_barrier()


@triton.jit
def wide(
    logits, stride, owners, positions, words, columns, values, sums, found, state, out,
    VOCAB: tl.constexpr, TILES: tl.constexpr, TILES_UP: tl.constexpr, WIDTH: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Grid (rows). Rows that are done return at once."""
    blocks: tl.constexpr = (VOCAB + 31) // 32
    row = tl.program_id(0).to(tl.int64)
    todo = tl.load(state + row)
    if todo != DONE:
        slot = tl.load(owners + row).to(tl.int64)
        temperature = float_of(words, slot, TEMPERATURE)
        line = logits + row * stride
        edge, last = key_of(tl.full((), LOWEST, tl.float32)).to(tl.int64), tl.full((), VOCAB, tl.int32)
        if todo == SEARCH:
            tile = tl.arange(0, TILES_UP)
            peak = tl.max(tl.load(values + row * TILES + tile, mask=tile < TILES, other=float("-inf")), 0)
            top_k, top_p, gap = cuts(words, slot, VOCAB)
            low, high = key_of(tl.maximum(peak + gap, LOWEST)).to(tl.int64), key_of(peak).to(tl.int64) + 1
            total = tl.full((), -1.0, tl.float64)
            if (top_k == 0) & (gap == float("-inf")):
                total = whole(values, sums, row, peak, TILES, TILES_UP)
            edge, last = _cut(line, temperature, peak, top_k, top_p, total, low, high, VOCAB, STEP)
        value = float_at(edge.to(tl.int32))
        seed, position = long_of(words, slot, SEED), tl.load(positions + row)
        column = tl.arange(0, WIDTH)
        tops = tl.load(columns + row * blocks + column, mask=column < blocks, other=float("-inf"))
        tops = divided(tops, temperature)
        high_bits, low_bits = random(BLOCKS, column, position, seed)
        bound = tops - tl.log(rough_exponential(high_bits, low_bits) * 0.03125)
        bound = tl.where((tops >= value) & (tops > float("-inf")), bound + margin(bound), float("-inf"))
        mine = found + row * blocks
        best, winner = tl.full((), float("-inf"), tl.float64), tl.full((), NOBODY, tl.int32)
        _first_look(bound, column, mine)
        best, winner = look_into(line, mine, 1, temperature, value, last, position, seed, best, winner, VOCAB)
        tl.debug_barrier()
        count = collect((bound >= best) & (bound > float("-inf")), column, mine)
        best, winner = look_into(
            line, mine, count, temperature, value, last, position, seed, best, winner, VOCAB
        )
        tl.store(out + row, tl.where(best > float("-inf"), winner, 0))
