"""Writing keys and values into a paged cache."""

from __future__ import annotations

from torch import Tensor

from octavo.ops.op import op


@op
def store_kv(k: Tensor, v: Tensor, cache: Tensor, slots: Tensor) -> None:
    """k, v [n, kv_heads, d] go to cache [pages, page, 2, kv_heads, d] at slots [n] int64.

    A slot is page * page_size + offset. Cast to the cache's dtype on the way.
    """
    flat = cache.flatten(0, 1)
    flat[:, 0].index_copy_(0, slots, k.to(cache.dtype))
    flat[:, 1].index_copy_(0, slots, v.to(cache.dtype))
