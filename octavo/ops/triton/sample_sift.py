"""A round of the search for a large nucleus's edge (sample_plan.py): one read of the row.

Any number of programs share it, each with every so many steps of the row; the last to be done sees
what all have left, and plans the next round.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.triton.launch import announce
from octavo.ops.triton.sample_edge import key_of
from octavo.ops.triton.sample_noise import divided
from octavo.ops.triton.sample_plan import (
    BY_ID,
    BY_MASS,
    HIGH,
    KEY,
    LISTED,
    LOW,
    MODE,
    PEAK,
    PIVOTS,
    come_closer,
    cut_listed,
    pivots_of,
    real_at,
)

_UNRANKED = tl.constexpr(-2147483648)


@triton.jit
def _ranks(keys, tokens, key, by_id):
    return tl.where(by_id, tl.where(keys == key, -tokens, _UNRANKED), keys)


@triton.jit
def _weigh(
    line, temperature, peak, pivots, by_mass, by_id, key, part, parts, VOCAB: tl.constexpr, STEP: tl.constexpr
):
    """[PIVOTS] float64: how many tokens, or how much probability, each pivot has at or above it."""
    lane = tl.arange(0, STEP)
    total = tl.zeros([PIVOTS, STEP], tl.float32)
    for start in range(part * STEP, VOCAB, parts * STEP):
        token = start + lane
        y = divided(tl.load(line + token, mask=token < VOCAB, other=float("-inf")), temperature)
        weight = tl.where(y > float("-inf"), tl.where(by_mass, tl.exp(y - peak), 1.0), 0.0)
        rank = _ranks(key_of(y), token, key, by_id)
        total += tl.where(rank[None, :] >= pivots[:, None], weight[None, :], 0.0)
    return tl.sum(total.to(tl.float64), 1)


@triton.jit
def _gather(
    line, temperature, peak, low, high, by_id, key, size, listed, ids, part, parts,
    VOCAB: tl.constexpr, STEP: tl.constexpr, LIST: tl.constexpr,
):  # fmt: skip
    """Lists the tokens ranked in [low, high), in any order; returns the probability of those before."""
    lane = tl.arange(0, STEP)
    above = tl.zeros([STEP], tl.float32)
    for start in range(part * STEP, VOCAB, parts * STEP):
        token = start + lane
        y = divided(tl.load(line + token, mask=token < VOCAB, other=float("-inf")), temperature)
        keys = key_of(y)
        rank = _ranks(keys, token, key, by_id)
        before = (rank >= high) | (by_id & (keys > key))
        above += tl.where(before, tl.exp(y - peak), 0.0)
        inside = (rank >= low) & (rank < high) & (y > float("-inf"))
        place = tl.cumsum(inside.to(tl.int32), 0)
        count = tl.max(place, 0)
        if count > 0:
            place += tl.atomic_add(size, count, sem="relaxed") - 1
            fits = inside & (place < LIST)
            tl.store(listed + place, y, mask=fits)
            tl.store(ids + place, token, mask=fits)
    return tl.sum(above.to(tl.float64), 0)


@triton.jit
def sift(
    line, temperature, plan, state, shares, arrived, size, listed, ids, part, parts,
    VOCAB: tl.constexpr, STEP: tl.constexpr, LIST: tl.constexpr, PARTS_UP: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """One program's part of a round of one row; all pointers are the row's. The last one decides."""
    mode, low, high = tl.load(plan + MODE), tl.load(plan + LOW), tl.load(plan + HIGH)
    key, peak = tl.load(plan + KEY).to(tl.int32), real_at(plan, PEAK).to(tl.float32)
    by_mass, by_id, listing = (mode & BY_MASS) != 0, (mode & BY_ID) != 0, (mode & LISTED) != 0
    pivots = pivots_of(low, high, by_id)
    i = tl.arange(0, PIVOTS)
    if listing:
        above = _gather(
            line, temperature, peak, low.to(tl.int32), high.to(tl.int32), by_id, key, size, listed, ids,
            part, parts, VOCAB, STEP, LIST,
        )  # fmt: skip
        tl.store(shares + part * PIVOTS, above)
    else:
        weights = _weigh(
            line, temperature, peak, pivots.to(tl.int32), by_mass, by_id, key, part, parts, VOCAB, STEP
        )
        tl.store(shares + part * PIVOTS + i, weights)
    announce(REAL)
    if tl.atomic_add(arrived, 1, sem="acq_rel") == parts - 1:
        tl.store(arrived, 0)
        which = tl.arange(0, PARTS_UP)
        at = shares + which[:, None] * PIVOTS + i[None, :]
        inside = (which < parts)[:, None] & ((i == 0) | (listing == 0))[None, :]
        weights = tl.sum(tl.load(at, mask=inside, other=0.0, cache_modifier=".cg"), 0)
        if listing:
            count = tl.load(size, volatile=True)
            tl.debug_barrier()
            tl.store(size, 0)
            if count <= LIST:
                place = tl.arange(0, LIST)
                real = place < count
                y = tl.load(listed + place, mask=real, other=float("-inf"), cache_modifier=".cg")
                tokens = tl.load(ids + place, mask=real, other=0, cache_modifier=".cg")
                above = tl.sum(weights, 0)
                tl.store(state, cut_listed(plan, mode, low, high, above, y, tokens, real, VOCAB))
            else:  # float32 sums were wrong about the count
                tl.store(plan + MODE, mode - LISTED)
        else:
            come_closer(plan, mode, low, high, weights, pivots, LIST, VOCAB)
    tl.debug_barrier()
