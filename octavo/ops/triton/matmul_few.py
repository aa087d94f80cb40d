"""A few rows times a matrix, on the tensor cores, with weights that go straight into registers.

As matmul_vec.py: tiles of weights are fetched one ahead of their use, the first before the kernel
waits for its predecessor, so that memory is busy from the start. A thread loads the very numbers
that its share of a tensor-core product takes (16 bytes in a row: which eight inputs a thread has does
not matter, as long as weights and rows agree): nothing passes through shared memory, no warp waits
for another. The warps of a program divide the inputs among them and add up at the end. A norm
before the product costs little here: its gain multiplies x on the way in, its scale the sums on the
way out.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2

from octavo.ops.triton.launch import activate, start_next, wait


@gluon.jit
def _along(N: gl.constexpr, axis: gl.constexpr, L: gl.constexpr):
    """0, ..., N - 1 along one of three axes."""
    if axis == 0:
        return gl.arange(0, N, gl.SliceLayout(1, gl.SliceLayout(2, L)))[:, None, None]
    elif axis == 1:
        return gl.arange(0, N, gl.SliceLayout(0, gl.SliceLayout(2, L)))[None, :, None]
    else:
        return gl.arange(0, N, gl.SliceLayout(0, gl.SliceLayout(1, L)))[None, None, :]


@gluon.jit
def _weights(
    weight, first, rows, k, K, BN: gl.constexpr, BK: gl.constexpr, A: gl.constexpr, EVEN_K: gl.constexpr
):
    """[warps, BN, BK] of rows from `first` on: warp w has the columns from k + w * BK on.

    Zero past the last column; past the last row it is read again.
    """
    source = gl.minimum(first + _along(BN, 1, A), rows - 1).to(gl.int64) * K
    columns = k + _along(gl.num_warps(), 0, A) * BK + _along(BK, 2, A)
    if EVEN_K:
        return gl.load(weight + source + columns, eviction_policy="evict_first")
    return gl.load(weight + source + columns, mask=columns < K, other=0.0, eviction_policy="evict_first")


@gluon.jit
def _inputs(x, last, k, K, M: gl.constexpr, BK: gl.constexpr, B: gl.constexpr, EVEN_K: gl.constexpr):
    """[warps, BK, M]: the same columns of x's rows (or, with M = 1, of a vector)."""
    columns = k + _along(gl.num_warps(), 0, B) * BK + _along(BK, 1, B)
    pointers = x + columns if M == 1 else x + gl.minimum(_along(M, 2, B), last) * K + columns
    if EVEN_K:
        return gl.load(pointers)
    return gl.load(pointers, mask=columns < K, other=0.0)


@gluon.jit
def _normed(right, squares, gain, k, K, BK: gl.constexpr, B: gl.constexpr, EVEN_K: gl.constexpr):
    """What the weights are multiplied with, and the sums [warps, M] of x's squares so far."""
    if gain is None:
        return right, squares
    else:
        wide = right.to(gl.float32)
        scaled = wide * _inputs(gain, 0, k, K, 1, BK, B, EVEN_K).to(gl.float32)
        return scaled.to(right.dtype), squares + gl.sum(wide * wide, 1)


@gluon.jit
def _finish(sums, norm, bias, source, OUT: gl.constexpr):
    """[warps, BN, M] -> [BN, M] of the product's outputs `source` [BN, 1]."""
    out = gl.convert_layout(gl.sum(sums, 0), OUT) * norm
    if bias is not None:
        out += gl.load(bias + source).to(gl.float32)
    return out


@gluon.jit(do_not_specialize=["m"])
def few_kernel(
    x, weight, bias, residual, gain, y, m, n_out, K, eps,
    M: gl.constexpr, BN: gl.constexpr, BK: gl.constexpr, ACT: gl.constexpr, EVEN_K: gl.constexpr,
    EARLY: gl.constexpr,
):  # fmt: skip
    """y [m, n_out] = act(norm(x [m, K]) @ weight [n_out (x 2 with ACT), K].T + bias) + residual.

    m <= M, a multiple of 8. Pointers that are None leave their term out; `gain` [K] is a
    root-mean-square norm's. EVEN_K: the warps' tiles together divide K.
    """
    W: gl.constexpr = gl.num_warps()
    C: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [W, 1, 1], [1, 16, 8])
    A: gl.constexpr = gl.DotOperandLayout(0, C, 8)
    B: gl.constexpr = gl.DotOperandLayout(1, C, 8)
    OUT: gl.constexpr = gl.BlockedLayout([1, 1], [16, 2], [1, W], [0, 1])
    start_next(EARLY)
    first = gl.program_id(0) * BN
    w = _weights(weight, first, n_out, 0, K, BN, BK, A, EVEN_K)
    up = w
    if ACT is not None:
        up = _weights(weight, first + n_out, 2 * n_out, 0, K, BN, BK, A, EVEN_K)
    wait(EARLY)
    right = _inputs(x, m - 1, 0, K, M, BK, B, EVEN_K)
    row = first + gl.arange(0, BN, gl.SliceLayout(1, OUT))[:, None]
    line = gl.arange(0, M, gl.SliceLayout(0, OUT))[None, :]
    at = line.to(gl.int64) * n_out + row
    keep = (line < m) & (row < n_out)
    before = 0.0
    if residual is not None:  # asked for here: at the end everybody would wait for it
        before = gl.load(residual + at, mask=keep, other=0.0).to(gl.float32)
    sums = gl.full([W, BN, M], 0.0, gl.float32, C)
    up_sums = sums
    squares = gl.full([W, M], 0.0, gl.float32, gl.SliceLayout(1, B))
    last = (K - 1) // (W * BK) * (W * BK)
    for k in range(0, last, W * BK):
        after = k + W * BK
        w_next = _weights(weight, first, n_out, after, K, BN, BK, A, EVEN_K)
        up_next = w_next
        if ACT is not None:
            up_next = _weights(weight, first + n_out, 2 * n_out, after, K, BN, BK, A, EVEN_K)
        right_next = _inputs(x, m - 1, after, K, M, BK, B, EVEN_K)
        part, squares = _normed(right, squares, gain, k, K, BK, B, EVEN_K)
        sums = mma_v2(w, part, sums)
        if ACT is not None:
            up_sums = mma_v2(up, part, up_sums)
        w, up, right = w_next, up_next, right_next
    part, squares = _normed(right, squares, gain, last, K, BK, B, EVEN_K)
    sums = mma_v2(w, part, sums)
    norm = 1.0
    if gain is not None:
        total = gl.convert_layout(gl.sum(squares, 0), gl.SliceLayout(0, OUT))
        norm = gl.rsqrt(total / K + eps)[None, :]
    source = gl.minimum(row, n_out - 1)
    out = _finish(sums, norm, bias, source, OUT)
    if ACT is not None:
        up_sums = mma_v2(up, part, up_sums)
        out = activate(out, _finish(up_sums, norm, bias, source + n_out, OUT), ACT)
    gl.store(y + at, (out + before).to(y.dtype.element_ty), mask=keep)
