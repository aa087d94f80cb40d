"""Heads enter attention in one launch: a program turns a few heads of one token.

Queries, keys and values differ only in what is done to them and where they go, so that one
block of heads may hold some of each.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.ops.enter import enter
from octavo.ops.triton.launch import early, start_next, wait


@triton.jit
def _put(cache, at, value, scale, mask):
    kind: tl.constexpr = cache.dtype.element_ty
    if kind == tl.float8e4nv:
        value = tl.minimum(tl.maximum(value / scale, -448.0), 448.0)
    tl.store(cache + at, value.to(kind), mask=mask)


@triton.jit
def _gain(q_norm, k_norm, is_q, lane, inside):
    """[heads, lanes] of the norm each head has; values have one computed and not used."""
    q = tl.load(q_norm + lane, mask=inside, other=0.0).to(tl.float32)[None, :]
    k = tl.load(k_norm + lane, mask=inside, other=0.0).to(tl.float32)[None, :]
    return tl.where(is_q, q, k)


@triton.jit
def _send(turned, plain, head, lane, inside, token, q_out, k_cache, v_cache, k_at, v_at, k_scale, v_scale,
          HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr):  # fmt: skip
    """A run of lanes of a block of heads goes where each head belongs."""
    is_q = head < HEADS
    is_k = (head >= HEADS) & (head < HEADS + KV_HEADS)
    is_v = (head >= HEADS + KV_HEADS) & (head < HEADS + 2 * KV_HEADS)
    inside = inside[None, :]
    lane = lane[None, :]
    q_at = token * (HEADS * D) + head[:, None] * D
    tl.store(q_out + q_at + lane, turned.to(q_out.dtype.element_ty), mask=is_q[:, None] & inside)
    _put(k_cache, k_at[:, None] + lane, turned, k_scale, is_k[:, None] & inside)
    _put(v_cache, v_at[:, None] + lane, plain, v_scale, is_v[:, None] & inside)


@triton.jit
def enter_kernel(
    qkv,
    angles,
    q_norm,
    k_norm,
    k_cache,
    v_cache,
    slots,
    q_out,
    k_scale,
    v_scale,
    eps,
    page,
    k_page,
    k_position,
    k_head,
    v_page,
    v_position,
    v_head,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    TURNING: tl.constexpr,
    BLOCK_TURN: tl.constexpr,
    BLOCK_REST: tl.constexpr,
    BLOCK_H: tl.constexpr,
    EARLY: tl.constexpr,
):
    """As octavo.ops.enter: q_out [n, HEADS, D]; caches by their strides, the last one 1.

    A head is handled as the two halves that turn into each other and, past TURNING, the rest.
    """
    start_next(EARLY)
    HALF: tl.constexpr = TURNING // 2
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    real = (head < HEADS + 2 * KV_HEADS)[:, None]
    is_q = (head < HEADS)[:, None]
    lane = tl.arange(0, BLOCK_TURN)
    turns = lane < HALF
    if q_norm is not None:
        low_gain = _gain(q_norm, k_norm, is_q, lane, turns)
        high_gain = _gain(q_norm, k_norm, is_q, HALF + lane, turns)
    wait(EARLY)
    row = qkv + token * ((HEADS + 2 * KV_HEADS) * D) + head[:, None] * D
    here = real & turns[None, :]
    low = tl.load(row + lane[None, :], mask=here, other=0.0).to(tl.float32)
    high = tl.load(row + HALF + lane[None, :], mask=here, other=0.0).to(tl.float32)
    cos = tl.load(angles + token * (2 * TURNING) + lane, mask=turns, other=0.0).to(tl.float32)[None, :]
    # the second half of the sines: those of the first are negated
    sin = tl.load(angles + token * (2 * TURNING) + TURNING + HALF + lane, mask=turns, other=0.0).to(
        tl.float32
    )[None, :]
    slot = tl.load(slots + token)
    at_page, offset = slot // page, slot % page
    k_at = at_page * k_page + offset * k_position + (head - HEADS) * k_head
    v_at = at_page * v_page + offset * v_position + (head - HEADS - KV_HEADS) * v_head
    squares = tl.sum(low * low + high * high, 1)
    if D > TURNING:
        past = tl.arange(0, BLOCK_REST)
        rests = past < D - TURNING
        rest = tl.load(row + TURNING + past[None, :], mask=real & rests[None, :], other=0.0).to(tl.float32)
        squares += tl.sum(rest * rest, 1)
    a, b = low, high
    if q_norm is not None:
        norm = tl.rsqrt(squares / D + eps)[:, None]
        a, b = low * norm * low_gain, high * norm * high_gain
    _send(a * cos - b * sin, low, head, lane, turns, token, q_out, k_cache, v_cache, k_at, v_at,
          k_scale, v_scale, HEADS, KV_HEADS, D)  # fmt: skip
    _send(b * cos + a * sin, high, head, HALF + lane, turns, token, q_out, k_cache, v_cache, k_at, v_at,
          k_scale, v_scale, HEADS, KV_HEADS, D)  # fmt: skip
    if D > TURNING:
        c = rest
        if q_norm is not None:
            c = rest * norm * _gain(q_norm, k_norm, is_q, TURNING + past, rests)
        _send(c, rest, head, TURNING + past, rests, token, q_out, k_cache, v_cache, k_at, v_at,
              k_scale, v_scale, HEADS, KV_HEADS, D)  # fmt: skip


def _fits(qkv: Tensor, angles: Tensor, *rest: object, **named: object) -> bool:
    return qkv.numel() > 0 and qkv.is_contiguous() and angles.is_contiguous()


@enter.kernel("cuda", when=_fits, invariant=True)
def entered(
    qkv: Tensor,
    angles: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    eps: float,
    heads: int,
    kv_heads: int,
    k_cache: Tensor,
    v_cache: Tensor,
    slots: Tensor,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    block: int = 0,
) -> Tensor:
    """`block`: heads a program, 0 to choose."""
    n, d = qkv.shape[0], k_cache.shape[-1]
    assert k_cache.stride(-1) == v_cache.stride(-1) == 1, "a head's values lie together"
    q = torch.empty(n, heads, d, dtype=qkv.dtype, device=qkv.device)
    turning, first = angles.shape[-1], early(qkv)
    block_h = block or (4 if n < 256 else 16)
    enter_kernel[(n, triton.cdiv(heads + 2 * kv_heads, block_h))](
        qkv, angles, q_norm, k_norm, k_cache, v_cache, slots, q, k_scale, v_scale, eps, k_cache.shape[1],
        *k_cache.stride()[:3], *v_cache.stride()[:3], HEADS=heads, KV_HEADS=kv_heads, D=d,
        TURNING=turning, BLOCK_TURN=triton.next_power_of_2(turning // 2),
        BLOCK_REST=triton.next_power_of_2(max(1, d - turning)), BLOCK_H=block_h, EARLY=first,
        num_warps=_warps(block_h * d), launch_pdl=first,
    )  # fmt: skip
    return q


def _warps(elements: int) -> int:
    """About 512 elements each; a power of two, as every launch wants."""
    return 1 << (max(1, min(8, elements // 512)).bit_length() - 1)
