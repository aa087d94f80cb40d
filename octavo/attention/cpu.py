"""Attention on a CPU with plain torch, arranged so that little is done per layer.

Once a step `prepare` sorts the rows: those with one new token are batched by similar length
and attend together over gathered pages, longer ones attend one by one. Layers then only
gather, attend and scatter. Knows nothing of models; `torch_ref` is its oracle.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from octavo.attention.transfer import rows_on_host
from octavo.core.facts import Platform
from octavo.nn.attention import split_heads
from octavo.nn.forward import Forward, HostBounds
from octavo.nn.protocols import AttnLayer, CacheSpec, Heads
from octavo.ops.cache import store_kv


class _Row(NamedTuple):
    """Tokens [begin, end) of the step end at context `length`; pages from `first` on are read."""

    number: int
    begin: int
    end: int
    length: int
    first: int


class _Decode(NamedTuple):
    """Rows with one token each, padded to the longest."""

    tokens: Tensor | None  # [b] where they are in the step; None: all of it, in order
    pages: Tensor  # [b * p]
    rows: int
    length: int  # gathered positions attended over
    mask: Tensor | None  # [b, 1, 1, length] float32, None where nothing is hidden


class _Prefill(NamedTuple):
    """One row with several tokens."""

    begin: int
    end: int
    pages: Tensor  # [p]
    fresh: bool  # the row's keys are all in this step
    length: int  # gathered positions attended over
    mask: Tensor | None  # [n, length], rows reversed; None: plain causal


@dataclass
class CPUMeta:
    spec: CacheSpec  # of the group's first layer
    slots: Tensor = field(default_factory=lambda: torch.empty(0))
    decodes: list[_Decode] = field(default_factory=list)
    prefills: list[_Prefill] = field(default_factory=list)


class CPUAttention:
    """Cache: [pages, page, 2 (k, v), kv_heads, head_dim]."""

    name = "cpu"

    def __init__(self) -> None:
        self._buffers: dict[torch.dtype, Tensor] = {}

    @staticmethod
    def supports(spec: CacheSpec, platform: Platform, dtypes: tuple[torch.dtype, ...] = ()) -> str | None:
        return None if platform.kind == "cpu" else f"runs on a CPU, not on {platform.kind}"

    def captures(self, bounds: HostBounds) -> bool:
        return False  # it asks the device

    def layout(self, spec: CacheSpec, pages: int, page_size: int) -> tuple[int, ...]:
        return (pages, page_size, 2, spec.kv_heads, spec.head_dim)

    def reserve(self, rows: int, device: torch.device) -> None:
        """Nothing is kept between steps."""

    def plan(self, spec: CacheSpec, bounds: HostBounds) -> CPUMeta:
        return CPUMeta(spec)

    def prepare(self, f: Forward, meta: CPUMeta) -> None:
        inputs, window = f.groups[meta.spec.group], meta.spec.window
        page = f.caches[meta.spec.name].shape[1]
        meta.slots = inputs.slots
        singles: list[_Row] = []
        for i, (begin, end, length) in enumerate(rows_on_host(f, meta.spec.group)):
            oldest = max(0, length - (end - begin) - window + 1) if window else 0
            row = _Row(i, begin, end, length, oldest // page)
            if end - begin == 1:
                singles.append(row)
            elif end > begin:
                meta.prefills.append(_prefill(row, inputs.tables, page, window))
        for batch in _alike(singles):
            meta.decodes.append(_decode(batch, inputs.tables, page, window, f.tokens.shape[0]))

    def enter(
        self, qkv: Tensor, angles: Tensor, heads: Heads, cache: Tensor, meta: CPUMeta, layer: AttnLayer
    ) -> tuple[Tensor, Tensor, Tensor]:
        return split_heads(qkv, angles, heads)

    def run(
        self, q: Tensor, k: Tensor | None, v: Tensor | None, cache: Tensor, meta: CPUMeta, layer: AttnLayer
    ) -> Tensor:
        if k is not None and v is not None:
            store_kv(k, v, cache, meta.slots)
        if len(meta.decodes) == 1 and meta.decodes[0].tokens is None:
            return self._decode(q, cache, meta.decodes[0], layer)
        out = torch.empty((q.shape[0], q.shape[1] * q.shape[2]), dtype=q.dtype)
        for batch in meta.decodes:
            assert batch.tokens is not None
            out.index_copy_(
                0, batch.tokens, self._decode(q.index_select(0, batch.tokens), cache, batch, layer)
            )
        for row in meta.prefills:
            out[row.begin : row.end] = self._prefill(q, k, v, cache, row, layer)
        return out

    def _decode(self, q: Tensor, cache: Tensor, batch: _Decode, layer: AttnLayer) -> Tensor:
        """q [b, heads, d] -> [b, heads * d]. Heads that share keys stand in for query positions."""
        kv_heads, d = cache.shape[3:]
        kv = self._gather(cache, batch.pages, q.dtype).view(batch.rows, -1, 2, kv_heads, d)[:, : batch.length]
        keys, values = kv.transpose(1, 3).unbind(2)  # [b, kv_heads, length, d] each
        grouped = q.reshape(batch.rows, kv_heads, -1, d)
        return sdpa(grouped, keys, values, attn_mask=batch.mask, scale=layer.scale).flatten(1)

    def _prefill(
        self, q: Tensor, k: Tensor | None, v: Tensor | None, cache: Tensor, row: _Prefill, layer: AttnLayer
    ) -> Tensor:
        """[n, heads * d]. Key heads are repeated by a stride of zero."""
        kv_heads, d = cache.shape[3:]
        if row.fresh and k is not None and v is not None:
            keys, values = k[row.begin : row.end], v[row.begin : row.end]
        else:
            kv = self._gather(cache, row.pages, q.dtype).view(-1, 2, kv_heads, d)[: row.length]
            keys, values = kv.unbind(1)
        queries = q[row.begin : row.end].view(row.end - row.begin, kv_heads, -1, d).permute(1, 2, 0, 3)
        shape = (kv_heads, queries.shape[1], row.length, d)
        keys, values = (t.transpose(0, 1).unsqueeze(1).expand(shape) for t in (keys, values))
        if row.mask is None:
            out = sdpa(queries, keys, values, is_causal=True, scale=layer.scale)
        else:
            out = sdpa(queries.flip(2), keys, values, attn_mask=row.mask, scale=layer.scale).flip(2)
        return out.permute(2, 0, 1, 3).flatten(1)

    def _gather(self, cache: Tensor, pages: Tensor, dtype: torch.dtype) -> Tensor:
        """Pages side by side, in a buffer that lives as long as the backend: layers take turns."""
        size = pages.shape[0] * cache[0].numel()
        buffer = self._buffers.get(cache.dtype)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[cache.dtype] = torch.empty(size, dtype=cache.dtype)
        out = buffer[:size].view(pages.shape[0], *cache.shape[1:])
        return torch.index_select(cache, 0, pages, out=out).to(dtype)


def _alike(rows: list[_Row]) -> list[list[_Row]]:
    """Batches of similar length: padding at most doubles what a batch reads."""
    batches: list[list[_Row]] = []
    for row in sorted(rows, key=lambda row: -row.length):
        if batches and (row.length * 2 >= batches[-1][0].length or batches[-1][0].length <= _SHORT):
            batches[-1].append(row)
        else:
            batches.append([row])
    for batch in batches:
        batch.sort()
    return batches


_SHORT = 256  # below this padding costs less than one more batch


def _decode(rows: list[_Row], tables: Tensor, page: int, window: int, tokens: int) -> _Decode:
    wide = max(-(-row.length // page) - row.first for row in rows)
    at = torch.tensor([row.first for row in rows])[:, None] + torch.arange(wide)
    last = torch.tensor([-(-row.length // page) - 1 for row in rows])[:, None]
    index = torch.tensor([row.number for row in rows])
    # a short row repeats its own last page: padding never reads a neighbour's
    pages = tables[index[:, None], torch.minimum(at, last)].long().flatten()
    lengths = torch.tensor([row.length - row.first * page for row in rows])
    longest = int(lengths.max())
    mask = None
    if window or int(lengths.min()) < longest:
        seen = torch.arange(longest) < lengths[:, None]
        if window:
            seen &= torch.arange(longest) >= lengths[:, None] - window
        mask = _bias(seen)[:, None, None]
    whole = len(rows) == tokens
    where = None if whole else torch.tensor([row.begin for row in rows])
    return _Decode(where, pages, len(rows), longest, mask)


def _prefill(row: _Row, tables: Tensor, page: int, window: int) -> _Prefill:
    n, length = row.end - row.begin, row.length - row.first * page
    pages = tables[row.number, row.first : -(-row.length // page)].long()
    fresh = n == row.length
    if fresh and (not window or n <= window):
        return _Prefill(row.begin, row.end, pages, True, length, None)
    # Whether a key is seen depends on its distance alone. With the queries reversed both axes
    # walk the same way along one vector, so the mask is a view: [n, length] in n + length.
    gap = torch.arange(n + length - 1)  # key + reversed query
    seen = gap < length
    if window:
        seen &= gap >= length - window
    mask = _bias(seen).as_strided((n, length), (1, 1))
    return _Prefill(row.begin, row.end, pages, fresh, length, mask)


def _bias(seen: Tensor) -> Tensor:
    return torch.zeros(seen.shape).masked_fill_(~seen, float("-inf"))
