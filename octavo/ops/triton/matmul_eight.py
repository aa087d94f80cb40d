"""One row times a matrix of 8-bit weights: as matmul_vec.py, with weights kept in words of four.

Bytes taken apart one by one cost more instructions and registers than the products; here a word
stays one register until two conversions make four numbers of it. Every row of the matrix is a
tensor of its own, laid out over the threads as x is, so that nothing is exchanged before the end.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.triton.launch import activate, start_next, wait


@triton.jit
def _words(pointer, k, K, W: tl.constexpr, EVEN_K: tl.constexpr):
    """[W] words of a row from word k on; what lies past the end is zero."""
    at = tl.arange(0, W)
    if EVEN_K:
        return tl.load(pointer + k + at, eviction_policy="evict_first")
    return tl.load(pointer + k + at, mask=at < K - k, other=0, eviction_policy="evict_first")


@triton.jit
def _tile(words, row, last, k, K, BN: tl.constexpr, W: tl.constexpr, EVEN_K: tl.constexpr):
    """The words of BN rows, one tensor a row; past the last row it is read again."""
    found = ()
    for i in tl.static_range(BN):
        source = tl.minimum(row + i, last).to(tl.int64)
        found += (_words(words + source * K, k, K, W, EVEN_K),)  # type: ignore[assignment]
    return found


@triton.jit
def _four(pointer, k, K, W: tl.constexpr, HALF: tl.constexpr, EVEN_K: tl.constexpr):
    """The 16-bit numbers that stand by W words of weights, as four float32 tensors."""
    at = tl.arange(0, W)
    inside = None if EVEN_K else at < K - k
    bits = tl.load(pointer + k + at, mask=inside, other=None if EVEN_K else 0)
    low, high = bits.to(tl.int32), (bits >> 32).to(tl.int32)
    if HALF:
        a = low.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
        b = (low >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
        c = high.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
        d = (high >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    else:  # bfloat16: the upper half of a float32
        a = (low << 16).to(tl.float32, bitcast=True)
        b = (low & -65536).to(tl.float32, bitcast=True)
        c = (high << 16).to(tl.float32, bitcast=True)
        d = (high & -65536).to(tl.float32, bitcast=True)
    return a, b, c, d


@triton.jit
def _byte(word, SHIFT: tl.constexpr):
    return ((word >> SHIFT) & 255).to(tl.uint8).to(tl.float8e4nv, bitcast=True).to(tl.float32)


@triton.jit
def _widen(word, REAL: tl.constexpr):
    """Four float32 of a word of four e4m3. Not REAL: in the interpreter."""
    if REAL:
        a, b, c, d = tl.inline_asm_elementwise(
            """{
            .reg .b16 low, high, even, odd;
            .reg .b32 pair;
            mov.b32 {low, high}, $4;
            cvt.rn.f16x2.e4m3x2 pair, low;
            mov.b32 {even, odd}, pair;
            cvt.f32.f16 $0, even;
            cvt.f32.f16 $1, odd;
            cvt.rn.f16x2.e4m3x2 pair, high;
            mov.b32 {even, odd}, pair;
            cvt.f32.f16 $2, even;
            cvt.f32.f16 $3, odd;
            }""",
            "=f,=f,=f,=f,r",
            [word],
            dtype=(tl.float32, tl.float32, tl.float32, tl.float32),
            is_pure=True,
            pack=1,
        )
    else:
        a, b, c, d = _byte(word, 0), _byte(word, 8), _byte(word, 16), _byte(word, 24)
    return a, b, c, d


@triton.jit
def _zeros(BN: tl.constexpr, W: tl.constexpr):
    sums = ()
    for _ in tl.static_range(BN):
        sums += (tl.zeros([W], tl.float32),)  # type: ignore[assignment]
    return sums


@triton.jit
def _add(sums, tile, x, BN: tl.constexpr, REAL: tl.constexpr):
    """The sums with a tile's products."""
    found = ()
    for i in tl.static_range(BN):
        a, b, c, d = _widen(tile[i], REAL)
        found += (sums[i] + a * x[0] + b * x[1] + c * x[2] + d * x[3],)  # type: ignore[assignment]
    return found


@triton.jit
def _finish(sums, norm, source, scale, bias):
    out = tl.sum(sums, 0) * norm * tl.load(scale + source)
    if bias is not None:
        out += tl.load(bias + source).to(tl.float32)
    return out


@triton.jit
def _store(sums, up_sums, norm, y, scale, bias, residual, first, n_out, BN: tl.constexpr, ACT: tl.constexpr):
    for i in tl.static_range(BN):
        row = first + i
        if row < n_out:
            out = _finish(sums[i], norm, row, scale, bias)
            if ACT is not None:
                out = activate(out, _finish(up_sums[i], norm, row + n_out, scale, bias), ACT)
            if residual is not None:
                out += tl.load(residual + row).to(tl.float32)
            tl.store(y + row, out.to(y.dtype.element_ty))


@triton.jit
def _inputs(x, gain, squares, k, K, W: tl.constexpr, HALF: tl.constexpr, EVEN_K: tl.constexpr):
    """What the weights from word k on are multiplied with, and the sums of x's squares so far."""
    a, b, c, d = _four(x, k, K, W, HALF, EVEN_K)
    if gain is not None:
        squares += a * a + b * b + c * c + d * d
        g, h, i, j = _four(gain, k, K, W, HALF, EVEN_K)
        a, b, c, d = a * g, b * h, c * i, d * j
    return (a, b, c, d), squares


@triton.jit
def eight_kernel(
    x,
    words,
    scale,
    bias,
    residual,
    gain,
    y,
    n_out,
    K,
    eps,
    BN: tl.constexpr,
    W: tl.constexpr,
    ACT: tl.constexpr,
    HALF: tl.constexpr,
    EVEN_K: tl.constexpr,
    EARLY: tl.constexpr,
    REAL: tl.constexpr,
):
    """y [n_out] = act(weight [n_out (x 2 with ACT), 4 K] @ x [4 K] * scale + bias) + residual.

    words: the weights as int32 [., K]; x and gain (a norm's, or None): 16-bit numbers as int64 [K],
    float16 where HALF, otherwise bfloat16.
    """
    start_next(EARLY)
    first = tl.program_id(0) * BN
    tile = _tile(words, first, n_out - 1, 0, K, BN, W, EVEN_K)
    sums = _zeros(BN, W)
    up, up_sums = tile, sums
    if ACT is not None:
        up = _tile(words, first + n_out, 2 * n_out - 1, 0, K, BN, W, EVEN_K)
    squares = tl.zeros([W], tl.float32)
    wait(EARLY)
    last = (tl.cdiv(K, W) - 1) * W
    for k in range(0, last, W):
        tile_next = _tile(words, first, n_out - 1, k + W, K, BN, W, EVEN_K)
        up_next = tile_next
        if ACT is not None:
            up_next = _tile(words, first + n_out, 2 * n_out - 1, k + W, K, BN, W, EVEN_K)
        part, squares = _inputs(x, gain, squares, k, K, W, HALF, EVEN_K)
        sums = _add(sums, tile, part, BN, REAL)
        if ACT is not None:
            up_sums = _add(up_sums, up, part, BN, REAL)
        tile, up = tile_next, up_next
    part, squares = _inputs(x, gain, squares, last, K, W, HALF, EVEN_K)
    sums = _add(sums, tile, part, BN, REAL)
    if ACT is not None:
        up_sums = _add(up_sums, up, part, BN, REAL)
    norm = 1.0
    if gain is not None:
        norm = tl.rsqrt(tl.sum(squares, 0) / (4 * K) + eps)
    _store(sums, up_sums, norm, y, scale, bias, residual, first, n_out, BN, ACT)
