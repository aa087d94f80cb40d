"""One read of the logits: what the draw must know of every noise block, tile by tile.

Tokens of a noise block are `blocks` apart, so a tile of neighbouring blocks is 32 lines of
neighbouring logits: a thread owns whole blocks and reduces them in registers. A tile leaves

- for greedy rows its best logit and the token that has it;
- for drawn rows a score that some token of the tile surely reaches, and per block a score that no
  token of it exceeds: whoever knows the row's best sure score need only look into few blocks;
- where rows are truncated, per block its largest logit, and the tile's share of the softmax.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.triton.launch import announce, start_next, wait
from octavo.ops.triton.sample_finish import finish, greedy_of
from octavo.ops.triton.sample_noise import (
    BLOCK,
    BLOCKS,
    NOBODY,
    TOKENS,
    divided,
    margin,
    random,
    rough_exponential,
)

# A row of the parameter table, in int32 words (sampling/device/params.py writes it).
WORDS = tl.constexpr(16)
TEMPERATURE, TOP_K, GAP = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # float32, int32, float32
TOP_P, SEED = tl.constexpr(4), tl.constexpr(6)  # float64, int64: two words each
UNTIL, PROMPT, ALLOWED = tl.constexpr(8), tl.constexpr(9), tl.constexpr(10)  # int32
REPETITION, FREQUENCY, PRESENCE = tl.constexpr(12), tl.constexpr(13), tl.constexpr(14)  # float32
GREEDY, RANDOM = tl.constexpr(0), tl.constexpr(1)


@triton.jit
def float_of(words, slot, at: tl.constexpr):
    return tl.load(words + slot * WORDS + at).to(tl.float32, bitcast=True)


@triton.jit
def long_of(words, slot, at: tl.constexpr):
    low = tl.load(words + slot * WORDS + at).to(tl.int64) & 0xFFFFFFFF
    return (tl.load(words + slot * WORDS + at + 1).to(tl.int64) << 32) | low


@triton.jit
def _leave_greedy(top, arg, column, inside, at, values, tokens, blocks: tl.constexpr):
    best = tl.max(top, 0)
    tl.store(values + at, best)
    tl.store(tokens + at, tl.min(tl.where(inside & (top == best), arg * blocks + column, NOBODY), 0))


@triton.jit
def _sure_score(top, arg, lead, leader, first, column, position, seed, blocks: tl.constexpr):
    """Per block, the better score of its leader and its likeliest token, rounded down."""
    high, low = random(TOKENS, arg * blocks + column, position, seed)
    later = tl.where(arg == leader, 0.0, rough_exponential(high, low))
    score = tl.maximum(lead - tl.log(first), top - tl.log(first + later))
    return score - margin(score)


@triton.jit
def scan(
    logits, stride, owners, positions, words, columns, values, tokens, found, arrived, out,
    VOCAB: tl.constexpr, TILES: tl.constexpr, TILES_UP: tl.constexpr, COLUMNS: tl.constexpr,
    MODE: tl.constexpr, REAL: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Greedy and untruncated rows; a row's last tile to be done draws. Grid (TILES, rows)."""
    start_next(EARLY)
    wait(EARLY)
    blocks: tl.constexpr = (VOCAB + 31) // 32
    tile, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    slot = tl.load(owners + row).to(tl.int64)
    column = tile * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < blocks
    line = logits + row * stride
    at = row * TILES + tile
    temperature = 0.0
    seed, position = tl.full((), 0, tl.int64), tl.full((), 0, tl.int64)
    leader = tl.zeros([COLUMNS], tl.int32)
    high, low = tl.zeros([COLUMNS], tl.uint32), tl.zeros([COLUMNS], tl.uint32)
    if MODE == RANDOM:
        temperature = float_of(words, slot, TEMPERATURE)
        seed, position = long_of(words, slot, SEED), tl.load(positions + row)
        high, low = random(BLOCKS, column, position, seed)
        leader = (high >> 27).to(tl.int32)
    top = tl.full([COLUMNS], float("-inf"), tl.float32)
    lead = top
    arg = tl.zeros([COLUMNS], tl.int32)
    for j in tl.static_range(BLOCK):
        token = j * blocks + column
        x = tl.load(line + token, mask=inside & (token < VOCAB), other=float("-inf"))
        above = x > top
        top, arg = tl.where(above, x, top), tl.where(above, j, arg)
        if MODE == RANDOM:
            lead = tl.where(leader == j, x, lead)
    if temperature == 0.0:
        _leave_greedy(top, arg, column, inside, at, values, tokens, blocks)
    else:
        top, lead = divided(top, temperature), divided(lead, temperature)
        first = rough_exponential(high, low) * 0.03125
        bound = top - tl.log(first)
        sure = _sure_score(top, arg, lead, leader, first, column, position, seed, blocks)
        tl.store(columns + row * blocks + column, bound + margin(bound), mask=inside)
        tl.store(values + at, tl.max(tl.where(inside & (top > float("-inf")), sure, float("-inf")), 0))
    announce(REAL)
    if tl.atomic_add(arrived + row, 1, sem="acq_rel") == TILES - 1:
        tl.store(arrived + row, 0)
        if temperature == 0.0:
            tl.store(out + row, greedy_of(values, tokens, row, TILES, TILES_UP))
        else:
            drawn = finish(
                line, columns + row * blocks, values + row * TILES, found + row * blocks, temperature,
                position, seed, VOCAB, TILES, TILES_UP,
            )  # fmt: skip
            tl.store(out + row, drawn)


@triton.jit
def scan_mass(
    logits, stride, owners, words, columns, values, tokens, sums,
    VOCAB: tl.constexpr, TILES: tl.constexpr, COLUMNS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """All kinds of rows, where some are truncated. `values` are divided by the temperature, `columns`
    are not. Grid (TILES, rows)."""
    start_next(EARLY)
    wait(EARLY)
    blocks: tl.constexpr = (VOCAB + 31) // 32
    tile, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    slot = tl.load(owners + row).to(tl.int64)
    column = tile * COLUMNS + tl.arange(0, COLUMNS)
    token = tl.arange(0, BLOCK)[:, None] * blocks + column[None, :]
    inside = (column < blocks)[None, :] & (token < VOCAB)
    x = tl.load(logits + row * stride + token, mask=inside, other=float("-inf"))
    top = tl.max(x, 0)
    best = tl.max(top, 0)
    at = row * TILES + tile
    temperature = float_of(words, slot, TEMPERATURE)
    if temperature == 0.0:
        tl.store(values + at, best)
        tl.store(tokens + at, tl.min(tl.min(tl.where(inside & (x == best), token, NOBODY), 1), 0))
    else:
        tl.store(columns + row * blocks + column, top, mask=column < blocks)
        best = divided(best, temperature)
        tl.store(values + at, best)
        top_k = tl.load(words + slot * WORDS + TOP_K)
        if (top_k == 0) | (top_k >= VOCAB):
            weight = tl.exp(divided(x, temperature) - tl.maximum(best, -3.4e38))
            tl.store(sums + at, tl.sum(tl.sum(weight, 1), 0))
