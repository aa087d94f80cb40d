"""From a fused projection into attention: split into heads, norm, turn, store keys and values."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo.ops.norm import rms_norm
from octavo.ops.op import op
from octavo.ops.rope import rope

LARGEST = 448.0  # of float8_e4m3fn


@op
def enter(
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
) -> Tensor:
    """qkv [n, (heads + 2 kv_heads) * d], angles [n, 2, 1, <= d] -> q [n, heads, d], normed and turned.

    The angles are those of rope_angles: a kernel may read one half of them, which tells the other.
    k (normed and turned) and v go to k_cache, v_cache [pages, page, kv_heads, d] (any strides) at
    slots [n] int64 = page * page_size + offset, divided by their scales where those are 8-bit.
    """
    n, d = qkv.shape[0], k_cache.shape[-1]
    q, k, v = torch.split(qkv.view(n, -1, d), [heads, kv_heads, kv_heads], 1)
    if q_norm is not None and k_norm is not None:
        q, k = rms_norm.reference(q, q_norm, eps), rms_norm.reference(k, k_norm, eps)
    q, k = (rope.reference(t, angles).to(qkv.dtype) for t in (q, k))
    page = k_cache.shape[1]
    for value, cache, scale in ((k, k_cache, k_scale), (v, v_cache, v_scale)):
        if cache.dtype == torch.float8_e4m3fn:
            value = (value.float() / scale).clamp(-LARGEST, LARGEST)
        cache[slots // page, slots % page] = value.to(cache.dtype)
    return q
