"""One row times a matrix: every weight is read once, straight into registers.

A program makes BN outputs. Tiles of weights are fetched one ahead of their use, the first before
the kernel waits for its predecessor, so that memory is busy from the start. Sums are float32,
kept apart in each thread until the end. A norm before the product costs nothing here: its gain
multiplies x on the way in, its scale the sums on the way out.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.triton.launch import activate, start_next, wait


@triton.jit
def _tile(pointers, k, K, BK: tl.constexpr, EVEN_K: tl.constexpr):
    """[BN, BK] weights from column k on; what lies past the end is zero."""
    columns = tl.arange(0, BK)[None, :]
    if EVEN_K:
        return tl.load(pointers + k + columns, eviction_policy="evict_first")
    return tl.load(pointers + k + columns, mask=columns < K - k, other=0.0, eviction_policy="evict_first")


@triton.jit
def _row(pointer, k, K, BK: tl.constexpr, EVEN_K: tl.constexpr):
    """[BK] of a vector from k on, as float32."""
    columns = tl.arange(0, BK)
    if EVEN_K:
        return tl.load(pointer + k + columns).to(tl.float32)
    return tl.load(pointer + k + columns, mask=columns < K - k, other=0.0).to(tl.float32)


@triton.jit
def _share(w, x, BN: tl.constexpr, BK: tl.constexpr, V: tl.constexpr):
    """[BN, BK / V] sums of w * x over runs of V columns, which one thread holds."""
    return tl.sum(tl.reshape(w.to(tl.float32) * x[None, :], [BN, BK // V, V]), 2)


@triton.jit
def _finish(sums, norm, rows, scale, bias):
    """[BN, BK / V] -> [BN] of the product's outputs `rows`."""
    out = tl.sum(sums, 1) * norm
    if scale is not None:
        out *= tl.load(scale + rows)
    if bias is not None:
        out += tl.load(bias + rows).to(tl.float32)
    return out


@triton.jit
def vec_kernel(
    x,
    weight,
    scale,
    bias,
    residual,
    gain,
    y,
    n_out,
    K,
    eps,
    BN: tl.constexpr,
    BK: tl.constexpr,
    V: tl.constexpr,
    ACT: tl.constexpr,
    EVEN_K: tl.constexpr,
    EARLY: tl.constexpr,
):
    """y [n_out] = act(weight [n_out (x 2 with ACT), K] @ x [K] * scale + bias) + residual.

    Pointers that are None leave their term out; `gain` [K] is a root-mean-square norm's.
    """
    start_next(EARLY)
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    source = tl.minimum(rows, n_out - 1).to(tl.int64)  # past the end: read something, store nothing
    pointers = weight + source[:, None] * K
    w = _tile(pointers, 0, K, BK, EVEN_K)
    sums = tl.zeros([BN, BK // V], tl.float32)
    if ACT is not None:
        up_pointers = weight + (source + n_out)[:, None] * K
        up = _tile(up_pointers, 0, K, BK, EVEN_K)
        up_sums = tl.zeros([BN, BK // V], tl.float32)
    squares = tl.zeros([BK // V], tl.float32)
    wait(EARLY)
    last = (tl.cdiv(K, BK) - 1) * BK
    for k in range(0, last, BK):
        w_next = _tile(pointers, k + BK, K, BK, EVEN_K)
        if ACT is not None:
            up_next = _tile(up_pointers, k + BK, K, BK, EVEN_K)
        part = _row(x, k, K, BK, EVEN_K)
        if gain is not None:
            squares += tl.sum(tl.reshape(part * part, [BK // V, V]), 1)
            part *= _row(gain, k, K, BK, EVEN_K)
        sums += _share(w, part, BN, BK, V)
        w = w_next
        if ACT is not None:
            up_sums += _share(up, part, BN, BK, V)
            up = up_next
    part = _row(x, last, K, BK, EVEN_K)
    if gain is not None:
        squares += tl.sum(tl.reshape(part * part, [BK // V, V]), 1)
        part *= _row(gain, last, K, BK, EVEN_K)
    sums += _share(w, part, BN, BK, V)
    norm = 1.0
    if gain is not None:
        norm = tl.rsqrt(tl.sum(squares, 0) / K + eps)
    out = _finish(sums, norm, source, scale, bias)
    if ACT is not None:
        up_sums += _share(up, part, BN, BK, V)
        out = activate(out, _finish(up_sums, norm, source + n_out, scale, bias), ACT)
    if residual is not None:
        out += tl.load(residual + source).to(tl.float32)
    tl.store(y + rows, out.to(y.dtype.element_ty), mask=rows < n_out)
