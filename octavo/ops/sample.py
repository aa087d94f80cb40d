"""Drawing tokens: counter-based noise, exact top-k / top-p, arg max. Arrays in, arrays out.

The noise of a token depends on (seed, absolute position, token id) and on nothing else, so a
row draws the same token whoever its neighbours are, however its prompt was cut, and when it
is computed a second time. Knows nothing of requests, slots or stages.

How it works. Token t of a row races with time e(t) / exp(logit(t)), where the e(t) are
independent exponentials; the first one home is a sample of softmax(logits), the same as
arg max of logit + Gumbel noise. To avoid making noise for the whole vocabulary, tokens are
dealt into blocks of 32 (token t belongs to block t mod n). The smallest of 32 exponentials is
itself exponential and equally likely to be any of the 32, and the others exceed it by
independent exponentials: one draw per block bounds every score in it, and only blocks whose
bound reaches the best score known so far are looked into. That is exact, not approximate.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]

BLOCK = 32
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_TOKENS, _BLOCKS = 0, 1  # second counter word: what the draw is for
# Scores lie within logit + [-3.7, 39.6]: no token further below the best one can win.
_SPREAD = np.float32(44.0)
_PEEKS = (1024, 8192)  # logits looked at before a whole row is sorted
# (e^r - 1 - r) / r^2 for |r| < 0.35, the highest power first
_SERIES = (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)


def philox(c0: Ints, c1: Ints, c2: Ints, c3: Ints, k0: Ints, k1: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Philox4x32-10 (Salmon et al., 2011). Arguments and results are 32-bit values in uint64."""
    x0, x1, x2, x3 = (np.asarray(c, np.uint64) for c in (c0, c1, c2, c3))
    k0, k1 = np.asarray(k0, np.uint64), np.asarray(k1, np.uint64)
    for _ in range(10):
        p0, p1 = x0 * _M0, x2 * _M1
        x0 = (p1 >> _HALF) ^ (x1 ^ k0)
        x2 = (p0 >> _HALF) ^ (x3 ^ k1)
        x1, x3 = p1 & _LOW, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return x0, x1, x2, x3


def _random(purpose: int, index: Ints, positions: Ints, seeds: Ints) -> NDArray[np.uint64]:
    """64 random bits for each (seed, position, index); the arguments broadcast."""
    seeds = np.asarray(seeds).astype(np.uint64)
    high, low, _, _ = philox(
        np.asarray(index),
        np.asarray(purpose),
        np.asarray(positions),
        np.asarray(0),
        seeds & _LOW,
        seeds >> _HALF,
    )
    bits: NDArray[np.uint64] = (high << _HALF) | low
    return bits


def _exponential(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Exponential variates from the low 52 bits; never 0 and never infinite."""
    uniform = ((bits & np.uint64((1 << 52) - 1)).astype(np.float64) + 0.5) * 2.0**-52
    variate: NDArray[np.float64] = -np.log(uniform)
    return variate


def block_max(logits: Floats) -> Floats:
    """[m, vocab] -> [m, n]: the largest logit of each block; column b holds tokens t with t % n == b."""
    vocab = logits.shape[1]
    n = -(-vocab // BLOCK)
    whole = vocab // n
    best: Floats = logits[:, : whole * n].reshape(len(logits), whole, n).max(1)
    if rest := vocab - whole * n:
        np.maximum(best[:, :rest], logits[:, whole * n :], out=best[:, :rest])
    return best


def greedy(logits: Floats) -> NDArray[np.int64]:
    """[m, vocab] -> [m]; of equal logits the lowest id wins."""
    best: NDArray[np.int64] = logits.argmax(1)
    return best


def draw(logits: Floats, seeds: Ints, positions: Ints) -> NDArray[np.int64]:
    """Samples softmax(logits) row by row: [m, vocab] float32, [m] seeds, [m] positions -> [m].

    -inf excludes a token; a row that excludes all of them takes token 0.
    """
    tops = block_max(logits)
    blocks = tops.shape[1]
    near = tops >= np.maximum(tops.max(1) - _SPREAD, np.finfo(np.float32).min)[:, None]
    row, block = np.nonzero(near)
    bits = _random(_BLOCKS, block, positions[row], seeds[row])
    first = _exponential(bits) / BLOCK  # the block's shortest time
    leader = (bits >> np.uint64(59)).astype(np.int64) * blocks + block  # and whose it is
    bound = tops[row, block] - np.log(first)

    known = np.where(leader < logits.shape[1], leader, 0)
    score = np.where(leader < logits.shape[1], logits[row, known] - np.log(first), -np.inf)
    best = np.full(len(logits), -np.inf)
    np.maximum.at(best, row, score)
    look = np.flatnonzero(bound >= best[row])
    return _finish(logits, seeds, positions, _Open(row[look], block[look], first[look], leader[look]), blocks)


class _Open(NamedTuple):
    """Blocks to be looked into: [c] each."""

    row: Ints
    block: Ints
    first: Floats
    leader: Ints


def _finish(logits: Floats, seeds: Ints, positions: Ints, open: _Open, blocks: int) -> NDArray[np.int64]:
    """Scores every token of the open blocks; the best of each row, the lowest id where equal."""
    token = open.block[:, None] + np.arange(BLOCK) * blocks  # [c, 32]
    valid = token < logits.shape[1]
    logit = np.where(valid, logits[open.row[:, None], np.where(valid, token, 0)], -np.inf)
    later = _exponential(_random(_TOKENS, token, positions[open.row][:, None], seeds[open.row][:, None]))
    time = open.first[:, None] + np.where(token == open.leader[:, None], 0.0, later)
    score = logit - np.log(time)
    best = np.full(len(logits), -np.inf)
    np.maximum.at(best, open.row, score.max(1))
    won = (score == best[open.row][:, None]) & (logit > -np.inf)
    winner = np.full(len(logits), logits.shape[1], np.int64)
    np.minimum.at(winner, open.row, np.where(won, token, logits.shape[1]).min(1))
    return np.where(winner < logits.shape[1], winner, 0)


class Ranked(NamedTuple):
    """The best tokens of each row, by falling logit, then rising id."""

    ids: NDArray[np.int64]  # [m, count]
    logits: Floats  # [m, count]


def ranked(logits: Floats, count: int) -> Ranked:
    """The `count` largest of each row of [m, vocab], in order, without sorting the rest."""
    rows, vocab = logits.shape
    if count >= vocab:
        order = np.argsort(-logits, axis=1, kind="stable")
        return Ranked(order, np.take_along_axis(logits, order, 1))
    floor = np.partition(logits, vocab - count, axis=1)[:, vocab - count]
    row, token = np.divmod(np.flatnonzero(logits >= floor[:, None]), vocab)
    order = np.lexsort((token, -logits[row, token], row))
    width = np.bincount(row, minlength=rows)  # more than `count` where several equal the last one
    first = (np.cumsum(width) - width)[:, None] + np.arange(count)
    ids = token[order][first]
    return Ranked(ids, np.take_along_axis(logits, ids, 1))


def truncate(row: Floats, top_k: int, top_p: float) -> None:
    """Excludes, in place, all but the nucleus of one row [vocab], float32.

    The `top_k` largest stay (0: all); of these the fewest whose share of the probability is at
    least `top_p`, and always one. Of equal logits the lower id stays. One row at a time, because
    a row fits the processor's cache and a batch of them does not.
    """
    vocab = len(row)
    peak = np.maximum(row.max(), np.finfo(np.float32).min)
    if 0 < top_k < vocab:
        top = _largest(row, top_k)
        running = np.cumsum(weights(top - peak))
        kept = top_k if top_p >= 1 else _reaching(running, top_p * float(running[-1]))
        return _keep(row, top, kept)
    if top_p >= 1:
        return None
    goal = top_p * float(weights(row - peak).sum())
    for width in (*_PEEKS, vocab):  # most nuclei are small
        top = _largest(row, min(width, vocab))
        running = np.cumsum(weights(top - peak))
        if running[-1] >= goal or width >= vocab:
            return _keep(row, top, _reaching(running, goal))
    return None


def weights(x: Floats) -> NDArray[np.int64]:
    """e^x for float32 x <= 0, in units of 2^-34 rounded down.

    Sums of these are exact in any order, and the steps are single operations that round the same
    everywhere: the edge of a nucleus is the same in the native kernels (ops/cpu/sample.cpp).
    """
    f = np.float32
    x = np.maximum(x, f(-30))
    n = np.rint(x * f(1.44269504))
    r = (x - n * f(0.693359375)) - n * f(-2.12194440e-4)
    p = np.full_like(r, f(_SERIES[0]))
    for term in _SERIES[1:]:
        p = p * r + f(term)
    p = (p * r) * r + r + f(1)
    scaled: NDArray[np.int64] = np.ldexp(p, n.astype(np.int32) + 34).astype(np.int64)
    return scaled


def _largest(row: Floats, count: int) -> Floats:
    """The `count` largest, falling."""
    some = np.partition(row, len(row) - count)[len(row) - count :] if count < len(row) else row
    return np.sort(some)[::-1]


def _reaching(running: NDArray[np.int64], goal: float) -> int:
    """How many it takes to reach the goal, at least one and at most all."""
    return min(int(np.searchsorted(running, goal)) + 1, len(running))


def _keep(row: Floats, top: Floats, kept: int) -> None:
    """Leaves the first `kept` of the falling logits `top`."""
    edge = top[kept - 1]
    above = row >= edge
    if (surplus := int(np.count_nonzero(above)) - kept) > 0:  # equal logits at the edge
        above[np.flatnonzero(row == edge)[-surplus:]] = False
    row[~above] = -np.inf
