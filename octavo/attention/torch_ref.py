"""The oracle: one row at a time through the reference op. Slow, simple, runs anywhere."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from octavo.attention.transfer import rows_on_host
from octavo.core.facts import Platform
from octavo.nn.attention import split_heads
from octavo.nn.forward import Forward, HostBounds
from octavo.nn.protocols import AttnLayer, CacheSpec, Heads
from octavo.ops.attention import paged_attention
from octavo.ops.cache import store_kv


@dataclass
class RefMeta:
    group: int
    slots: Tensor = field(default_factory=lambda: torch.empty(0))
    rows: list[tuple[int, int, int, Tensor]] = field(default_factory=list)  # begin, end, length, pages


class TorchRef:
    """Cache: [pages, page, 2 (k, v), kv_heads, head_dim]."""

    name = "torch_ref"

    @staticmethod
    def supports(spec: CacheSpec, platform: Platform, dtypes: tuple[torch.dtype, ...] = ()) -> str | None:
        return None

    def captures(self, bounds: HostBounds) -> bool:
        return False  # it asks the device

    def layout(self, spec: CacheSpec, pages: int, page_size: int) -> tuple[int, ...]:
        return (pages, page_size, 2, spec.kv_heads, spec.head_dim)

    def reserve(self, rows: int, device: torch.device) -> None:
        """Nothing is kept between steps."""

    def plan(self, spec: CacheSpec, bounds: HostBounds) -> RefMeta:
        return RefMeta(spec.group)

    def prepare(self, f: Forward, meta: RefMeta) -> None:
        inputs = f.groups[meta.group]
        tables = inputs.tables if f.owners is None else inputs.tables[f.owners.long()]
        rows = zip(rows_on_host(f, meta.group), tables, strict=True)
        meta.slots = inputs.slots
        meta.rows = [(*row, table) for row, table in rows if row[1] > row[0]]

    def enter(
        self, qkv: Tensor, angles: Tensor, heads: Heads, cache: Tensor, meta: RefMeta, layer: AttnLayer
    ) -> tuple[Tensor, Tensor, Tensor]:
        return split_heads(qkv, angles, heads)

    def run(
        self, q: Tensor, k: Tensor | None, v: Tensor | None, cache: Tensor, meta: RefMeta, layer: AttnLayer
    ) -> Tensor:
        if k is not None and v is not None:
            store_kv(k, v, cache, meta.slots)
        out = torch.empty_like(q)
        page = cache.shape[1]
        for begin, end, length, table in meta.rows:
            out[begin:end] = paged_attention(
                q[begin:end], cache, table[: -(-length // page)], length, layer.scale, layer.window
            )
        return out.flatten(1)
