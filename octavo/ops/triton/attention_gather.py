"""Keys of a step's tokens out of the paged cache, one token after another."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.ops.triton.launch import early, start_next, wait

TOKENS = 32  # a program's


class FreshConfig(NamedTuple):
    """How attention_fresh.py, which not every triton can load, cuts prompts; chosen on the host."""

    tile: int = 128  # queries of a program
    block: int = 128  # keys; a tile is some of them
    warps: int = 8  # one for 16 queries


@triton.jit(do_not_specialize=["tokens"])
def _gather_kernel(
    cache, slots, out, tokens, page_step, place_step, head_step,
    PAGE: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, TOKENS: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    start_next(EARLY)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    kv = tl.program_id(0)
    d = tl.arange(0, DP)
    there = (token < tokens)[:, None] & (d < D)[None, :]
    wait(EARLY)
    slot = tl.load(slots + token, mask=token < tokens, other=0)
    place = slot // PAGE * page_step + slot % PAGE * place_step + kv * head_step
    values = tl.load(cache + place[:, None] + d[None, :], mask=there, other=0.0)
    to = token.to(tl.int64) * (KV_HEADS * D) + kv * D
    tl.store(out + to[:, None] + d[None, :], values, mask=there)


def gather(cache: Tensor, slots: Tensor) -> Tensor:
    """cache [pages, page, kv_heads, d], slots [n] int64 -> [n, kv_heads * d]."""
    page, kv_heads, d = cache.shape[1:]
    n, first = slots.shape[0], early(cache)
    assert cache.stride(3) == 1
    out = torch.empty((n, kv_heads * d), dtype=cache.dtype, device=cache.device)
    _gather_kernel[(kv_heads, triton.cdiv(n, TOKENS))](
        cache, slots, out, n, *cache.stride()[:3], PAGE=page, KV_HEADS=kv_heads, D=d,
        DP=triton.next_power_of_2(d), TOKENS=TOKENS, EARLY=first, num_warps=4, launch_pdl=first,
    )  # fmt: skip
    return out
