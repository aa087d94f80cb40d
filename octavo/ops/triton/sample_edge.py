"""Where a row is cut: the exact edge of top-k, then top-p, by a search over float bit patterns.

Floats are compared as int32 keys of the same order, so a search ends at an exact value. A cut is
(edge, last): what lies above the edge stays, and of the tokens equal to it those with ids up to
`last`.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOWEST = tl.constexpr(-3.4028234663852886e38)
TRIES = tl.constexpr(4)


@triton.jit
def key_of(y):
    """int32 that sorts as the float does; both zeros are one."""
    bits = tl.where(y == 0.0, 0.0, y).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def float_at(key):
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def highest(keys, weight, target, low, high, GRAIN: tl.constexpr):
    """The highest key such that keys from it on weigh at least `target`, or a key at most GRAIN below;
    `low` where there is none. At `high` (int64, as `low`) the weight is less. Four keys are tried at
    a time: a sum over all threads costs more in waiting than in adding."""
    part = tl.arange(0, TRIES).to(tl.int64) + 1
    while high - low > GRAIN:
        tried = low + tl.maximum((high - low) * part // (TRIES + 1), 1)
        above = keys[None, :] >= tried.to(tl.int32)[:, None]
        reached = tl.sum(tl.where(above, weight[None, :], 0.0), 1) >= target
        low, high = tl.max(tl.where(reached, tried, low), 0), tl.min(tl.where(reached, high, tried), 0)
    return low


@triton.jit
def last_of(tokens, equal, wanted, VOCAB: tl.constexpr):
    """The id up to which `wanted` of the equal tokens stay; VOCAB where all do."""
    low, high = tl.full((), -1, tl.int32), tl.full((), VOCAB, tl.int32)
    if tl.sum(equal.to(tl.int32), 0) > wanted:
        while high - low > 1:
            middle = (low + high) // 2
            enough = tl.sum((equal & (tokens <= middle)).to(tl.int32), 0) >= wanted
            low, high = tl.where(enough, low, middle), tl.where(enough, middle, high)
    return high


@triton.jit
def stays(keys, tokens, edge, last):
    edge = edge.to(tl.int32)
    return (keys > edge) | ((keys == edge) & (tokens <= last))


@triton.jit
def how_many(goal, over, each, equal):
    """How many of `equal` tokens that weigh `each` it takes from `over` to the goal: 1 to all."""
    wanted = tl.ceil((goal - over) / each)
    return tl.maximum(tl.minimum(wanted, equal.to(tl.float64)), 1.0).to(tl.int32)


@triton.jit
def cut_list(y, tokens, real, top_k, top_p, goal, above, peak, low, high, VOCAB: tl.constexpr):
    """(edge, last, goal): the cut, which lies among `real` tokens of the list: y and tokens [n].

    Their keys are in [low, high); tokens before the list have probability `above` in all. `top_k`
    counts from the list's start on. top_k 0 and top_p 1 are off. `goal` is what top_p has to reach;
    below 0: its share of what top_k leaves. Where the goal returned is not more than `above`, the
    cut of top_p is before the list, and only top_k's was made.
    """
    keys = key_of(y)
    edge, last = low, tl.full((), VOCAB, tl.int32)
    if top_k > 0:
        edge = highest(keys, real.to(tl.float32), top_k.to(tl.float32), low, high, 1)
        over = tl.sum((real & (keys > edge.to(tl.int32))).to(tl.int32), 0)
        last = last_of(tokens, real & (keys == edge.to(tl.int32)), top_k - over, VOCAB)
    if top_p < 1.0:
        kept = real & stays(keys, tokens, edge, last)
        mass = tl.where(kept, tl.exp(y - peak), 0.0).to(tl.float64)
        goal = tl.where(goal < 0.0, top_p * (above + tl.sum(mass, 0)), goal)
        if goal > above:
            top_k_edge = edge
            edge = highest(keys, mass, goal - above, edge, high, 1)
            at = edge.to(tl.int32)
            over = above + tl.sum(tl.where(keys > at, mass, 0.0), 0)
            equal = kept & (keys == at)
            each = tl.exp(float_at(at) - peak).to(tl.float64)
            wanted = how_many(goal, over, each, tl.sum(equal.to(tl.int32), 0))
            last = tl.where(edge > top_k_edge, VOCAB, last)  # else both cut at one value: top_k's still holds
            last = tl.minimum(last, last_of(tokens, equal, wanted, VOCAB))
    return edge, last, goal
