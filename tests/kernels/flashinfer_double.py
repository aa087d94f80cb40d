"""Stands in for the package flashinfer: attends by definition, from what the real one is given.

Holds its callers to what the real wrapper asks for (flashinfer-python 0.6.13).
"""

from __future__ import annotations

import torch
from torch import Tensor


class BatchPrefillWithPagedKVCacheWrapper:
    def __init__(self, workspace: Tensor, layout: str, backend: str) -> None:
        assert workspace.dtype == torch.uint8 and layout == "HND" and backend in ("fa2", "fa3")

    def plan(
        self, ends: Tensor, page_ends: Tensor, pages: Tensor, last: Tensor, heads: int, kv_heads: int,
        head_dim: int, page: int, *, causal: bool, sm_scale: float, window_left: int, logits_soft_cap: float,
        q_data_type: torch.dtype, kv_data_type: torch.dtype,
    ) -> None:  # fmt: skip
        for given in (ends, page_ends, pages, last):
            assert given.dtype == torch.int32 and given.device.type == "cpu" and given.is_contiguous()
        assert causal and len(ends) == len(page_ends) == len(last) + 1 and len(pages) == page_ends[-1]
        assert last.min() >= 1 and last.max() <= page
        self.rows = [part.clone() for part in (ends, page_ends, pages, last)]
        self.shape, self.types = (heads, kv_heads, head_dim, page), (q_data_type, kv_data_type)
        self.scale, self.window, self.softcap = sm_scale, window_left, logits_soft_cap

    def run(
        self, q: Tensor, cache: tuple[Tensor, Tensor], *, out: Tensor | None = None, enable_pdl: bool = True
    ) -> Tensor:
        heads, kv_heads, d, page = self.shape
        ends, page_ends, pages, last = self.rows
        assert q.shape == (ends[-1], heads, d) and (q.dtype, cache[0].dtype) == self.types
        assert all(c.shape[1:] == (kv_heads, page, d) and c.stride(-1) == 1 for c in cache)
        assert cache[0].stride() == cache[1].stride() and not enable_pdl
        out = torch.empty_like(q) if out is None else out
        assert out.shape == q.shape
        for row in range(len(last)):
            begin, end = int(ends[row]), int(ends[row + 1])
            mine = pages[page_ends[row] : page_ends[row + 1]].long().to(q.device)
            length = (len(mine) - 1) * page + int(last[row])
            out[begin:end] = self._attend(q[begin:end], cache, mine, length)
        return out

    def _attend(self, q: Tensor, cache: tuple[Tensor, Tensor], pages: Tensor, length: int) -> Tensor:
        group = self.shape[0] // self.shape[1]
        k, v = (c[pages].transpose(1, 2).flatten(0, 1)[:length].float() for c in cache)
        k, v = (t.repeat_interleave(group, 1) for t in (k, v))
        s = torch.einsum("qhd,khd->hqk", q.float() * self.scale, k)
        if self.softcap:
            s = self.softcap * (s / self.softcap).tanh()
        at = torch.arange(length, device=q.device)
        distance = at[length - len(q) :, None] - at
        hidden = (distance < 0) | (distance > self.window) if self.window >= 0 else distance < 0
        return torch.einsum("hqk,khd->qhd", s.masked_fill(hidden, float("-inf")).softmax(-1), v).to(q.dtype)
