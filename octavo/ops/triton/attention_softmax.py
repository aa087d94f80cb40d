"""Pieces that the attention kernels share: the running softmax, soft-capping, merging of parts.

Scores are kept unscaled; `scale2` is the softmax scale times log2(e), so that one multiply-add and an
exp2 make a weight. A part is its normalised output and the log2 of its weights' sum.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOWEST = tl.constexpr(-1.0e30)  # finite, so that an empty part never makes inf - inf


@triton.jit
def cap(s, scale, softcap):
    """softcap * tanh(s * scale / softcap), in units of unscaled scores."""
    e = tl.exp2(s * (scale * 2.0 * 1.4426950408889634 / softcap))
    return (softcap / scale) * (1.0 - 2.0 / (e + 1.0))


@triton.jit
def fold(s, m, w, scale2):
    """One tile of scores into the running maximum and sum: (weights, factor of what was before, m, w)."""
    top = tl.maximum(m, tl.max(s, 1))
    p = tl.exp2(s * scale2 - (top * scale2)[:, None])
    alpha = tl.exp2((m - top) * scale2)
    return p, alpha, top, w * alpha + tl.sum(p, 1)


@triton.jit
def product(a, b, acc, EXACT: tl.constexpr):
    """acc + a @ b; float32 without tf32."""
    if EXACT:
        return tl.dot(a, b, acc, input_precision="ieee")
    else:
        return tl.dot(a, b, acc)


@triton.jit
def narrowed(queries, scale, cache):
    """(queries, scale of their scores), as float16 where the cache is 8 bits wide.

    Such keys and values become float16 in one instruction for two and lose nothing, bfloat16 takes four.
    """
    kind: tl.constexpr = queries.dtype
    if cache.dtype.element_ty == tl.float8e4nv and kind == tl.bfloat16:
        wide = queries.to(tl.float32)
        top = tl.maximum(tl.max(tl.max(tl.abs(wide), 1), 0), 1.0e-30)
        return (wide * (256.0 / top)).to(tl.float16), scale * (top * 0.00390625)
    else:
        return queries, scale
