"""The search for a large nucleus's edge: what is known of a row, and what a round adds to it.

What is searched is a rank: a token's key (sample_edge.py) or, among tokens of one key, minus its id. A
round weighs the row at PIVOTS ranks between two known ones, and the cut is then known to be between
two of these. Once the tokens between them surely fit a list, the next round lists them, and the cut is
found there. A row has at most two searches, top_k's and then top_p's.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.triton.sample_edge import LOWEST, cut_list, float_at, key_of

DONE, SEARCH, READY = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # what is left to do for a row

# A row's search, in int64 words; some are float64.
PLAN = tl.constexpr(16)
LOW, HIGH = tl.constexpr(0), tl.constexpr(1)  # ranks: the cut is in [LOW, HIGH)
GOAL, OVER = tl.constexpr(2), tl.constexpr(3)  # float64: the weight to be reached, and that from HIGH on
MODE, KEY = tl.constexpr(4), tl.constexpr(5)  # the bits below; the key of all tokens ranked by id
EDGE, LAST = tl.constexpr(6), tl.constexpr(7)  # top_k's cut, then the row's
SHARE, PEAK = tl.constexpr(8), tl.constexpr(9)  # float64: top_p, the largest logit
BY_MASS, BY_ID, LISTED = tl.constexpr(1), tl.constexpr(2), tl.constexpr(4)
LATER = tl.constexpr(8)  # the goal is top_p of the weight at LOW, which the first round tells
SECOND = tl.constexpr(16)  # the search is top_p's
PIVOTS = tl.constexpr(32)
NOWHERE = tl.constexpr(-(1 << 40))  # a key that no token has


@triton.jit
def real_at(plan, at: tl.constexpr):
    return tl.load(plan + at).to(tl.float64, bitcast=True)


@triton.jit
def aim(plan, mode, low, high, goal, over):
    """The search's next round."""
    tl.store(plan + MODE, tl.zeros((), tl.int64) + mode)
    tl.store(plan + LOW, low)
    tl.store(plan + HIGH, high)
    tl.store(plan + GOAL, goal.to(tl.float64).to(tl.int64, bitcast=True))
    tl.store(plan + OVER, over.to(tl.float64).to(tl.int64, bitcast=True))


@triton.jit
def cut_at(plan, edge, last):
    tl.store(plan + EDGE, edge)
    tl.store(plan + LAST, last.to(tl.int64))


@triton.jit
def begin(plan, top_k, top_p, peak, total, low, high, VOCAB: tl.constexpr):
    """The first search of a row. `total`, the softmax's denominator, is below 0 where it is not known."""
    nothing = tl.full((), 0.0, tl.float64)
    cut_at(plan, tl.full((), NOWHERE, tl.int64), tl.full((), VOCAB, tl.int32))
    tl.store(plan + SHARE, top_p.to(tl.int64, bitcast=True))
    tl.store(plan + PEAK, peak.to(tl.float64).to(tl.int64, bitcast=True))
    if top_k > 0:
        aim(plan, 0, low, high, top_k, nothing)
    elif total < 0.0:
        aim(plan, BY_MASS | SECOND | LATER, low, high, nothing, nothing)
    else:
        # So far down that all tokens below cannot hold what top_p leaves out.
        depth = 1.0 + tl.log((VOCAB / tl.maximum((1.0 - top_p) * total, 1e-30)).to(tl.float32))
        floor = key_of(tl.maximum(peak - tl.maximum(depth, 1.0), LOWEST)).to(tl.int64)
        aim(plan, BY_MASS | SECOND, tl.maximum(low, floor), high, top_p * total, nothing)


@triton.jit
def pivots_of(low, high, by_id):
    """[PIVOTS] ranks: `low`, then some within. Three of four are evenly spread over values, which is fast
    for most rows; the others over ranks, so that no row takes long.

    Who weighs and who reads the weights may each compute these, in a layout of its own, and must have the
    same to the last bit: no product is left for the compiler to fuse into a sum in one place only.
    """
    i = tl.arange(0, PIVOTS)
    evenly = low + (high - low) * i // PIVOTS
    first, end = float_at(low.to(tl.int32)), float_at((high - 1).to(tl.int32))
    share = (i - i // 4).to(tl.float32) * (4.0 / (3 * PIVOTS))
    value = key_of(tl.fma(end - first, share, first)).to(tl.int64)
    rank = tl.where((i % 4 == 3) | by_id, evenly, value)
    rank = tl.maximum(tl.minimum(rank, high - 1), tl.minimum(low + 1, high - 1))
    return tl.where(i == 0, low, rank)


@triton.jit
def come_closer(plan, mode, low, high, weights, pivots, LIST: tl.constexpr, VOCAB: tl.constexpr):
    """After a round that weighed: between which pivots the cut is, and how the search goes on."""
    by_mass, by_id = (mode & BY_MASS) != 0, (mode & BY_ID) != 0
    goal, over, peak = real_at(plan, GOAL), real_at(plan, OVER), real_at(plan, PEAK)
    most = tl.max(weights, 0)
    goal = tl.where((mode & LATER) != 0, real_at(plan, SHARE) * most, goal)
    reached = (weights >= goal) | (pivots == low)
    over = tl.max(tl.where(reached, over, weights), 0)
    most = tl.min(tl.where(reached, weights, most), 0)
    high = tl.min(tl.where(reached, high, pivots), 0)
    low = tl.max(tl.where(reached, pivots, low), 0)
    if ((mode & (BY_MASS | BY_ID)) == 0) & (most <= LIST):  # then the list may as well begin at the top
        high, over = key_of(peak.to(tl.float32)).to(tl.int64) + 1, most * 0.0
    least = tl.exp(float_at(low.to(tl.int32)) - peak.to(tl.float32)).to(tl.float64)
    least = tl.where(by_mass, least, 1.0)
    mode = mode & (BY_MASS | BY_ID | SECOND)
    if (most - over) * 1.001 <= (LIST - 1) * least:  # so many tokens at most
        mode = mode | LISTED
    elif (high - low <= 1) & (by_id == 0):
        tl.store(plan + KEY, low)
        wanted = tl.ceil((goal - over) / least)
        goal, over = tl.maximum(tl.minimum(wanted, VOCAB * 1.0), 1.0), over * 0.0
        mode = (mode & SECOND) | BY_ID
        low, high = tl.full((), -VOCAB, tl.int64), tl.full((), 1, tl.int64)
    aim(plan, mode, low, high, goal, over)


@triton.jit
def cut_listed(plan, mode, low, high, above, y, tokens, real, VOCAB: tl.constexpr):
    """After a round that listed: DONE where the row's cut is known, SEARCH where top_p's is before the
    list. `above`: the probability of all tokens before it."""
    by_id, second = (mode & BY_ID) != 0, (mode & SECOND) != 0
    goal, over, top_p = real_at(plan, GOAL), real_at(plan, OVER), real_at(plan, SHARE)
    peak = real_at(plan, PEAK).to(tl.float32)
    key = tl.load(plan + KEY)
    furthest = tl.where(by_id, -low, VOCAB).to(tl.int32)  # of equal tokens, those with higher ids are out
    low, high = tl.where(by_id, key, low), tl.where(by_id, key + 1, high)
    mass = second & (by_id == 0)
    count = tl.where(mass, 0.0, goal - over).to(tl.int32)
    above = tl.where(mass, over, above)
    top_p = tl.where(second & by_id, 1.0, top_p)
    edge, last, goal = cut_list(
        y, tokens, real, count, top_p, tl.where(mass, goal, -1.0), above, peak, low, high, VOCAB
    )
    last = tl.minimum(last, furthest)
    if second & (edge == tl.load(plan + EDGE)):
        last = tl.minimum(last, tl.load(plan + LAST).to(tl.int32))
    cut_at(plan, edge, last)
    left = READY
    if (second == 0) & (top_p < 1.0) & (goal <= above):
        aim(plan, BY_MASS | SECOND, edge, key_of(peak).to(tl.int64) + 1, goal, goal * 0.0)
        left = SEARCH
    return left
