"""The noise of ops/sample.py on the device: Philox bits, exponential variates, exact scores of tokens.

Two precisions. Exact scores are float64, so that a row draws the token the CPU draws. Bounds,
which only decide what is looked into, are float32 and widened by more than they can be wrong.
"""

from __future__ import annotations

import triton
import triton.language as tl

BLOCK = tl.constexpr(32)  # tokens of a noise block: token t belongs to block t mod ceil(vocab / 32)
NOBODY = tl.constexpr(2147483647)  # no token's id
TOKENS, BLOCKS = tl.constexpr(0), tl.constexpr(1)  # second counter word: what the draw is for


@triton.jit
def random(purpose: tl.constexpr, index, position, seed):
    """(high, low) uint32: the 64 random bits of (seed, position, index); `index` is a block of int32."""
    zero = index * 0
    high, low, _, _ = tl.philox(seed, index, zero + purpose, zero + position.to(tl.int32), zero)
    return high, low


@triton.jit
def exponential(high, low):
    """Exponential variates from the low 52 bits, float64; never 0 and never infinite."""
    bits = ((high & 0xFFFFF).to(tl.int64) << 32) | low.to(tl.int64)
    return -tl.log((bits.to(tl.float64) + 0.5) * 2.220446049250313e-16)


@triton.jit
def rough_exponential(high, low):
    """The same in float32, within 1e-5 of it relatively, small values too."""
    up = (high & 0xFFFFF).to(tl.float32) * 9.5367431640625e-07 + low.to(tl.float32) * 2.220446049250313e-16
    down = (high ^ 0xFFFFF) & 0xFFFFF
    rest = down.to(tl.float32) * 9.5367431640625e-07
    rest += ((low ^ 0xFFFFFFFF).to(tl.float32) + 0.5) * 2.220446049250313e-16  # 1 - uniform, no cancellation
    series = rest * (1.0 + rest * (0.5 + rest * (0.33333333 + rest * 0.25)))
    return tl.where(rest < 0.015625, series, -tl.log(tl.maximum(up, 1e-16)))


@triton.jit
def margin(score):
    """More than a float32 bound can be wrong, float rounding of large logits included."""
    return 1e-4 + 2e-6 * tl.minimum(tl.abs(score), 1e30)


@triton.jit
def divided(logit, temperature):
    """The logit a row draws with: an IEEE quotient, as numpy's."""
    return tl.div_rn(logit, temperature)


@triton.jit
def block_scores(logit, token, block, blocks: tl.constexpr, position, seed):
    """Exact scores [C, 32] of the tokens of C blocks: logit and token [C, 32], block [C]."""
    high, low = random(BLOCKS, block, position, seed)
    first = exponential(high, low) * 0.03125
    leader = (high >> 27).to(tl.int32) * blocks + block
    high, low = random(TOKENS, token, position, seed)
    later = tl.where(token == leader[:, None], 0.0, exponential(high, low))
    return logit.to(tl.float64) - tl.log(first[:, None] + later)


@triton.jit
def token_scores(logit, token, blocks: tl.constexpr, position, seed):
    """Exact scores of single tokens [C]."""
    block = token % blocks
    high, low = random(BLOCKS, block, position, seed)
    first = exponential(high, low) * 0.03125
    leader = (high >> 27).to(tl.int32) * blocks + block
    high, low = random(TOKENS, token, position, seed)
    later = tl.where(token == leader, 0.0, exponential(high, low))
    return logit.to(tl.float64) - tl.log(first + later)


@triton.jit
def better(score, token, best, winner):
    """The better of two candidates (scalars): the higher score, the lower id of equals."""
    wins = (score > best) | ((score == best) & (token < winner))
    return tl.where(wins, score, best), tl.where(wins, token, winner)
