"""A few rows times a matrix, on the tensor cores: weights stream through shared memory once.

The weights are the left operand, [BN, BK] tiles; the rows, padded to M, the right one. All tiles
of the matrix, cut along its inputs too, form one line of steps, of which every program takes an
equal run: the card is evenly loaded whatever the shape. A tile that several programs share is
summed by the one that comes last, in the order of the inputs, so results do not depend on timing.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.triton.launch import activate, announce, prefetch, start_next, wait


@triton.jit
def _weights(weight, tiles, row, rows, k, K, BK: tl.constexpr, EVEN_K: tl.constexpr):
    """[BN, BK] from column k on; what lies past the end is zero."""
    if tiles is not None:
        return tiles.load([row, k])
    columns = tl.arange(0, BK)[None, :]
    pointers = weight + rows[:, None] * K + k + columns
    if EVEN_K:
        return tl.load(pointers, eviction_policy="evict_first")
    return tl.load(pointers, mask=columns < K - k, other=0.0, eviction_policy="evict_first")


@triton.jit
def _ask(
    weight, step, steps, n_out, K, BN: tl.constexpr, BK: tl.constexpr, ACT: tl.constexpr, EARLY: tl.constexpr
):
    """Has a step's weights fetched into L2: one pointer a cache line of 128 bytes."""
    LINE: tl.constexpr = 128 // (weight.dtype.element_ty.primitive_bitwidth // 8)
    LINES: tl.constexpr = BK // LINE if BK > LINE else 1
    rows = tl.minimum(step // steps * BN + tl.arange(0, BN), n_out - 1).to(tl.int64)
    columns = tl.minimum(step % steps * BK + tl.arange(0, LINES) * LINE, K - 1)
    spots = weight + rows[:, None] * K + columns[None, :]
    prefetch(spots, EARLY)
    if ACT is not None:
        prefetch(spots + n_out.to(tl.int64) * K, EARLY)


@triton.jit
def _product(w, right, sums, dtype: tl.constexpr):
    if w.dtype != dtype:
        w = w.to(dtype)
    if dtype == tl.float8e4nv:  # the tensor cores' own sums are coarse: they are taken over every step
        return tl.dot(w, right, sums, max_num_imprecise_acc=w.shape[1])
    return tl.dot(w, right, sums, input_precision="ieee")


@triton.jit
def _begin(program, programs, total):
    """The first step of a program's run."""
    return (program.to(tl.int64) * total // programs).to(tl.int32)


@triton.jit
def _owner(step, programs, total):
    """The program whose run holds a step."""
    return (((step + 1).to(tl.int64) * programs - 1) // total).to(tl.int32)


@triton.jit
def _spot(place, half, M: tl.constexpr, BN: tl.constexpr, ACT: tl.constexpr):
    """Where in `parts` a share lies: every program has two places, for the tiles at its run's ends."""
    PAIR: tl.constexpr = 1 if ACT is None else 2
    return (place * PAIR + half) * (BN * M) + tl.arange(0, BN)[:, None] * M + tl.arange(0, M)[None, :]


@triton.jit
def _leave(sums, up_sums, parts, arrived, place, others, M: tl.constexpr, BN: tl.constexpr, ACT: tl.constexpr,
           REAL: tl.constexpr):  # fmt: skip
    """Leaves a share of a tile for whoever comes last; true where that is oneself."""
    tl.store(parts + _spot(place, 0, M, BN, ACT), sums)
    if ACT is not None:
        tl.store(parts + _spot(place, 1, M, BN, ACT), up_sums)
    announce(REAL)
    return tl.atomic_add(arrived, 1, sem="acq_rel") == others


@triton.jit
def _gather(parts, one, others, half, M: tl.constexpr, BN: tl.constexpr, ACT: tl.constexpr,
            SHARERS: tl.constexpr):  # fmt: skip
    """The shares of programs one, ..., one + others, in that order.

    The first of them begins the tile and has its share in its second place.
    """
    sums = tl.zeros([BN, M], tl.float32)
    for q in tl.static_range(SHARERS):
        place = 2 * (one + q) + (1 if q == 0 else 0)
        sums += tl.load(
            parts + _spot(place, half, M, BN, ACT), mask=q <= others, other=0.0, cache_modifier=".cg"
        )
    return sums


@triton.jit
def _scaled(sums, rows, scale, bias, line_scale):
    if line_scale is not None:
        sums *= line_scale
    if scale is not None:
        sums *= tl.load(scale + rows)[:, None]
    if bias is not None:
        sums += tl.load(bias + rows).to(tl.float32)[:, None]
    return sums


@triton.jit
def _store(
    sums,
    up_sums,
    y,
    x_scale,
    scale,
    bias,
    residual,
    rows,
    source,
    m,
    n_out,
    M: tl.constexpr,
    ACT: tl.constexpr,
):
    line = tl.arange(0, M)[None, :]
    line_scale = None
    if x_scale is not None:
        line_scale = tl.load(x_scale + line, mask=line < m, other=0.0)
    out = _scaled(sums, source, scale, bias, line_scale)
    if ACT is not None:
        out = activate(out, _scaled(up_sums, source + n_out, scale, bias, line_scale), ACT)
    at = line.to(tl.int64) * n_out + rows[:, None]
    keep = (line < m) & (rows < n_out)[:, None]
    if residual is not None:
        out += tl.load(residual + at, mask=keep, other=0.0).to(tl.float32)
    tl.store(y + at, out.to(y.dtype.element_ty), mask=keep)


@triton.jit(do_not_specialize=["m"])
def dot_kernel(
    x,
    weight,
    tiles,
    x_scale,
    scale,
    bias,
    residual,
    y,
    parts,
    arrived,
    m,
    n_out,
    K,
    M: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    ACT: tl.constexpr,
    SHARERS: tl.constexpr,
    EVEN_K: tl.constexpr,
    STAGES: tl.constexpr,
    AHEAD: tl.constexpr,
    EARLY: tl.constexpr,
    REAL: tl.constexpr,
):
    """y [m, n_out] = act(x [m, K] @ weight [n_out (x 2 with ACT), K].T * scale + bias) + residual.

    Rows of 8 bits have a scale each, x_scale [m]. tiles: the weights once more as a tensor descriptor
    with blocks of [BN, BK], where the device has an engine for such copies. parts: float32
    [2 programs, 1 or 2, BN, M]; arrived: int32 [tiles], zero before and after. SHARERS: at most so
    many programs share a tile (1: none does). AHEAD: how many steps are asked for in L2 before the
    kernel waits for its predecessor.
    """
    start_next(EARLY)
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    steps = tl.cdiv(K, BK)
    total = steps * tl.cdiv(n_out, BN)
    begin = _begin(program, programs, total)
    end = _begin(program + 1, programs, total)
    lines = tl.arange(0, M)[None, :]
    for i in tl.static_range(AHEAD):
        _ask(weight, tl.minimum(begin + i, end - 1), steps, n_out, K, BN, BK, ACT, EARLY)
    wait(EARLY)
    sums = tl.zeros([BN, M], tl.float32)
    up_sums = sums
    for it in tl.range(begin, end, num_stages=STAGES):
        tile = it // steps
        k = it % steps * BK
        rows = tile * BN + tl.arange(0, BN)
        source = tl.minimum(rows, n_out - 1).to(tl.int64)  # past the end: read something, store nothing
        inner = k + tl.arange(0, BK)[:, None]
        right = tl.load(x + lines * K + inner, mask=(lines < m) & (inner < K), other=0.0)
        sums = _product(
            _weights(weight, tiles, tile * BN, source, k, K, BK, EVEN_K), right, sums, right.dtype
        )
        if ACT is not None:
            up = _weights(weight, tiles, tile * BN + n_out, source + n_out, k, K, BK, EVEN_K)
            up_sums = _product(up, right, up_sums, right.dtype)
        if (k + BK >= K) | (it == end - 1):
            first = tile * steps
            if SHARERS == 1 or ((begin <= first) & (end >= first + steps)):
                _store(sums, up_sums, y, x_scale, scale, bias, residual, rows, source, m, n_out, M, ACT)
            else:
                place = 2 * program + (begin <= first)
                one = _owner(first, programs, total)
                others = _owner(first + steps - 1, programs, total) - one
                if _leave(sums, up_sums, parts, arrived + tile, place, others, M, BN, ACT, REAL):
                    sums = _gather(parts, one, others, 0, M, BN, ACT, SHARERS)
                    if ACT is not None:
                        up_sums = _gather(parts, one, others, 1, M, BN, ACT, SHARERS)
                    tl.store(arrived + tile, 0)
                    _store(sums, up_sums, y, x_scale, scale, bias, residual, rows, source, m, n_out, M, ACT)
            sums = tl.zeros([BN, M], tl.float32)
            up_sums = sums
