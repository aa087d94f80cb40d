"""Attention of one row over its own pages: the specification every backend is tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo.ops.op import op


@op
def paged_attention(
    q: Tensor, cache: Tensor, pages: Tensor, length: int, scale: float, window: int
) -> Tensor:
    """q [n, heads, d] are the last n of `length` positions -> [n, heads, d].

    cache is [pages, page, 2, kv_heads, d]; pages [p] are the row's, in order. A query sees
    itself and what is before it, at most `window` positions in all where window > 0.
    """
    n, heads, _ = q.shape
    gone = max(0, length - n - window + 1) // cache.shape[1] if window else 0  # pages out of sight
    length -= gone * cache.shape[1]
    kv = cache[pages[gone:].long()].flatten(0, 1)[:length].float()  # [length, 2, kv_heads, d]
    k, v = (t.repeat_interleave(heads // t.shape[1], 1) for t in kv.unbind(1))
    scores = torch.einsum("qhd,khd->hqk", q.float() * scale, k)
    distance = torch.arange(length - n, length)[:, None] - torch.arange(length)
    hidden = (distance < 0) | (distance >= window) if window else distance < 0
    weights = scores.masked_fill(hidden.to(q.device), float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v).to(q.dtype)
